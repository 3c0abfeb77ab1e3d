/* torrent.cpp: libtorrent-rasterbar behind torrent.h. The one C++ file.
 *
 * The session runs on a thread of libtorrent's own, disk access included (posix back end: the engine reads the same
 * files, and a mapped file that another process sees half written would be worse than slow). Nothing here waits for
 * that thread once the session is open: commands are posted, answers come as alerts. gate and published are what
 * both threads touch.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/torrent.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/alert_types.hpp>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/extensions/smart_ban.hpp>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/fingerprint.hpp>
#include <libtorrent/hasher.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/load_torrent.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/posix_disk_io.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>

namespace {

constexpr int BLOCK = 16 << 10;                /* BEP 52: the leaves of a file's tree */
constexpr int REDIAL_POLLS = 4;                /* unfinished: every so many polls */
constexpr int REDIAL_POLLS_IDLE = 20;          /* complete and alone */
constexpr unsigned RETRIES = 3;
constexpr unsigned ADD_TRIES = 100;
constexpr int HANDSHAKE_TICKS = 10;            /* seconds that an incoming peer has to name its port */

void say(char *why, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
void say(char *why, size_t size, const char *format, ...)
{
	va_list args;

	if (size == 0)
		return;
	va_start(args, format);
	vsnprintf(why, size, format, args);
	va_end(args);
}

/* Runs f; what it throws becomes an error number and a sentence. */
template <typename F>
int fenced(char *why, size_t size, F f) noexcept
{
	try {
		return f();
	} catch (const std::bad_alloc &) {
		say(why, size, "out of memory");
		return -ENOMEM;
	} catch (const lt::system_error &e) {
		say(why, size, "%s", e.code().message().c_str());
		return ERR_MALFORMED;
	} catch (const std::exception &e) {
		say(why, size, "%s", e.what());
		return -EIO;
	} catch (...) {
		say(why, size, "unknown error in the torrent library");
		return -EIO;
	}
}

int errno_of(const lt::error_code &ec)
{
	if (ec.category() == lt::generic_category() || ec.category() == lt::system_category())
		return -ec.value();
	return -EIO;
}

} // namespace

/* ------------------------------------------------------------------------------------------ making metainfo */

struct torrent_maker {
	struct file {
		lt::file_index_t index;
		uint64_t size, fed;
		lt::hasher256 whole;                 /* SHA-256 of the file as it is */
		std::vector<lt::sha256_hash> blocks; /* of the piece that is being fed */
		lt::hasher256 block;
		uint32_t block_fed;
		lt::hasher piece;                    /* SHA-1, padding included */
	};
	lt::file_storage storage;
	std::unique_ptr<lt::create_torrent> torrent; /* refers to storage */
	std::vector<file> files;                     /* in the caller's order */
	uint32_t piece_length;
};

extern "C" int torrent_maker_new(struct torrent_maker **out, const char *title, const char *const *names,
				 const uint64_t *sizes, size_t n, char *why, size_t why_size)
{
	return fenced(why, why_size, [&] {
		auto maker = std::make_unique<torrent_maker>();

		for (size_t i = 0; i < n; i++) {
			std::string name = names[i];

			for (size_t j = 0; j < i; j++) {
				if (name == names[j]) {
					say(why, why_size, "two files are named %s: rename one", names[i]);
					return static_cast<int>(ERR_MODEL);
				}
			}
			maker->storage.add_file(n == 1 ? name : std::string(title) + "/" + name,
						static_cast<std::int64_t>(sizes[i]));
		}
		maker->piece_length = extents_piece_length(sizes, n);
		maker->torrent = std::make_unique<lt::create_torrent>(maker->storage, static_cast<int>(maker->piece_length));
		maker->torrent->set_creator("essaim");
		maker->torrent->set_creation_date(0);    /* the same file gives the same metainfo, whenever */
		/* The library sorts the files and puts padding between them. */
		maker->files.resize(n);
		for (size_t i = 0; i < n; i++) {
			bool found = false;

			for (auto index : maker->storage.file_range()) {
				if (maker->storage.pad_file_at(index) || maker->storage.file_name(index) != lt::string_view(names[i]))
					continue;
				maker->files[i].index = index;
				found = true;
			}
			if (!found) {
				say(why, why_size, "%s: a torrent cannot carry this name: rename the file", names[i]);
				return static_cast<int>(ERR_MODEL);
			}
			maker->files[i].size = sizes[i];
			maker->files[i].fed = 0;
			maker->files[i].block_fed = 0;
		}
		*out = maker.release();
		return 0;
	});
}

/* A piece of file is complete: its two hashes go into the torrent. */
static void finish_piece(struct torrent_maker *maker, torrent_maker::file &file)
{
	const lt::file_storage &storage = maker->storage;
	uint64_t in_file = (file.fed - 1) / maker->piece_length;
	auto first = static_cast<int>(storage.file_offset(file.index) / maker->piece_length);
	lt::piece_index_t piece(first + static_cast<int>(in_file));
	auto padding = static_cast<size_t>(storage.piece_size(piece)) - (file.fed - in_file * maker->piece_length);
	static const std::array<char, BLOCK> zeros{};

	while (padding > 0) {
		size_t n = std::min(padding, zeros.size());

		file.piece.update(zeros.data(), static_cast<int>(n));
		padding -= n;
	}
	maker->torrent->set_hash(piece, file.piece.final());
	file.piece.reset();

	/* BEP 52: the tree under a piece is as wide as the piece; that of a file smaller than one, the next
	 * power of two. Leaves past the end are zero. */
	size_t leaves = maker->piece_length / BLOCK;
	if (file.size < maker->piece_length) {
		for (leaves = 1; leaves < file.blocks.size();)
			leaves *= 2;
	}
	file.blocks.resize(leaves);
	for (; leaves > 1; leaves /= 2) {
		for (size_t i = 0; i < leaves / 2; i++) {
			lt::hasher256 pair;

			pair.update(file.blocks[2 * i]);
			pair.update(file.blocks[2 * i + 1]);
			file.blocks[i] = pair.final();
		}
	}
	maker->torrent->set_hash2(file.index, lt::piece_index_t::diff_type{static_cast<int>(in_file)}, file.blocks[0]);
	file.blocks.clear();
}

extern "C" int torrent_maker_feed(struct torrent_maker *maker, size_t i, const uint8_t *bytes, size_t n)
{
	return fenced(nullptr, 0, [&] {
		torrent_maker::file &file = maker->files.at(i);

		if (n > file.size - file.fed)
			return static_cast<int>(ERR_CHANGED);
		if (n > 0)
			file.whole.update(reinterpret_cast<const char *>(bytes), static_cast<int>(n));
		while (n > 0) {
			size_t step = std::min<size_t>(n, BLOCK - file.block_fed);
			auto at = reinterpret_cast<const char *>(bytes);

			file.block.update(at, static_cast<int>(step));
			file.piece.update(at, static_cast<int>(step));
			file.block_fed += static_cast<uint32_t>(step);
			file.fed += step;
			bytes += step;
			n -= step;
			if (file.block_fed == BLOCK || file.fed == file.size) {
				file.blocks.push_back(file.block.final());
				file.block.reset();
				file.block_fed = 0;
			}
			if (file.fed % maker->piece_length == 0 || file.fed == file.size)
				finish_piece(maker, file);
		}
		return 0;
	});
}

extern "C" int torrent_maker_finish(struct torrent_maker *maker, uint8_t **info, size_t *info_length,
				    uint8_t (*roots)[KEY_BYTES], uint8_t (*sha256)[KEY_BYTES], char *why, size_t why_size)
{
	return fenced(why, why_size, [&] {
		for (auto &file : maker->files) {
			if (file.fed != file.size)
				return static_cast<int>(ERR_CHANGED);
		}

		std::vector<char> bytes = maker->torrent->generate_buf();
		lt::add_torrent_params params = lt::load_torrent_buffer(bytes);

		for (size_t i = 0; i < maker->files.size(); i++) {
			lt::sha256_hash root = params.ti->files().root(maker->files[i].index);
			lt::sha256_hash whole = maker->files[i].whole.final();

			memcpy(roots[i], root.data(), KEY_BYTES);
			memcpy(sha256[i], whole.data(), KEY_BYTES);
		}
		*info = static_cast<uint8_t *>(malloc(bytes.size()));
		if (!*info)
			return -ENOMEM;
		memcpy(*info, bytes.data(), bytes.size());
		*info_length = bytes.size();
		return 0;
	});
}

extern "C" void torrent_maker_free(struct torrent_maker *maker)
{
	delete maker;
}

/* ------------------------------------------------------------------------------------------ reading metainfo */

namespace {

/* The torrent's file for each of the manifest's: by root and size, so that odd names cannot mislead. */
std::vector<lt::file_index_t> match_files(const lt::torrent_info &ti, const struct manifest_body *body)
{
	std::vector<lt::file_index_t> found;
	const lt::file_storage &storage = ti.files();

	for (size_t i = 0; i < body->n_files; i++) {
		for (auto index : storage.file_range()) {
			if (storage.pad_file_at(index) || std::find(found.begin(), found.end(), index) != found.end())
				continue;
			if (static_cast<uint64_t>(storage.file_size(index)) != body->files[i].size)
				continue;
			if (memcmp(storage.root(index).data(), body->files[i].root, KEY_BYTES) != 0)
				continue;
			found.push_back(index);
			break;
		}
		if (found.size() != i + 1)
			return {};
	}
	for (auto index : storage.file_range()) {
		if (!storage.pad_file_at(index) && std::find(found.begin(), found.end(), index) == found.end())
			return {};
	}
	return found;
}

lt::add_torrent_params load(const struct manifest_body *body)
{
	lt::load_torrent_limits limits;

	limits.max_buffer_size = RECORD_MAX;
	limits.max_pieces = PIECES_MAX;
	return lt::load_torrent_buffer({reinterpret_cast<const char *>(body->info), static_cast<std::ptrdiff_t>(body->info_length)},
				       limits);
}

} // namespace

extern "C" int torrent_layout(const struct manifest_body *body, struct layout *out, char *why, size_t why_size)
{
	return fenced(why, why_size, [&] {
		lt::add_torrent_params params = load(body);
		const lt::torrent_info &ti = *params.ti;
		const lt::file_storage &storage = ti.files();

		*out = {};
		if (!ti.info_hashes().has_v2()) {
			say(why, why_size, "the manifest's torrent is of BitTorrent's first version alone (BEP 3, not BEP 52)");
			return static_cast<int>(ERR_MALFORMED);
		}
		if (!params.trackers.empty() || !params.url_seeds.empty() || !params.http_seeds.empty() || !params.dht_nodes.empty() ||
		    !ti.trackers().empty() || !ti.web_seeds().empty()) {
			say(why, why_size, "the manifest's torrent names trackers or web seeds; nothing is announced to anyone");
			return static_cast<int>(ERR_MALFORMED);
		}
		std::vector<lt::file_index_t> files = match_files(ti, body);
		if (files.empty() || files.size() > MODEL_FILES_MAX) {
			say(why, why_size, "the manifest's torrent is not of the manifest's files");
			return static_cast<int>(ERR_MALFORMED);
		}
		out->piece_length = static_cast<uint32_t>(ti.piece_length());
		out->n_pieces = static_cast<uint32_t>(ti.num_pieces());
		out->n_files = files.size();
		for (size_t i = 0; i < files.size(); i++) {
			std::int64_t offset = storage.file_offset(files[i]);

			if (offset % ti.piece_length() != 0) {
				say(why, why_size, "the manifest's torrent does not align its files");
				return static_cast<int>(ERR_MALFORMED);
			}
			/* The library compared the layer with the root when it read it. */
			if (storage.file_size(files[i]) > ti.piece_length() &&
			    (files[i] >= params.merkle_trees.end_index() || params.merkle_trees[files[i]].empty())) {
				say(why, why_size, "the manifest's torrent lacks the hashes of its pieces (BEP 52)");
				return static_cast<int>(ERR_MALFORMED);
			}
			out->files[i].size = static_cast<uint64_t>(storage.file_size(files[i]));
			out->files[i].first_piece = static_cast<uint32_t>(offset / ti.piece_length());
		}
		int err = extents_check_layout(out);
		if (err)
			say(why, why_size, "the manifest's torrent lays its files out in an impossible way");
		return err;
	});
}

/* ------------------------------------------------------------------------------------------ who may exchange */

namespace {

/* The addresses that may; both threads. */
class gate {
public:
	void set(std::vector<lt::tcp::endpoint> peers)
	{
		std::lock_guard<std::mutex> lock(mutex);
		allowed = std::move(peers);
	}
	/* port 0 in the list: any port of that host. */
	bool admits(const lt::address &host, int port) const
	{
		std::lock_guard<std::mutex> lock(mutex);
		lt::address plain = unmapped(host);

		return std::any_of(allowed.begin(), allowed.end(), [&](const lt::tcp::endpoint &e) {
			return e.address() == plain && (e.port() == 0 || e.port() == port);
		});
	}
	static lt::address unmapped(const lt::address &host)
	{
		if (host.is_v6() && host.to_v6().is_v4_mapped()) {
			auto bytes = host.to_v6().to_bytes();

			return lt::address_v4({bytes[12], bytes[13], bytes[14], bytes[15]});
		}
		return host;
	}

private:
	mutable std::mutex mutex;
	std::vector<lt::tcp::endpoint> allowed;
};

/* What a published model's files were when they were hashed. stat() costs a microsecond or two; a block is 16 KiB. */
struct published {
	std::vector<std::string> paths;
	std::vector<struct torrent_stamp> stamps;
	std::atomic<bool> changed{false};

	bool unchanged()
	{
		for (size_t i = 0; i < paths.size() && !changed; i++) {
			struct stat st;

			if (stat(paths[i].c_str(), &st) != 0 || static_cast<uint64_t>(st.st_size) != stamps[i].size ||
			    st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec != stamps[i].mtime_ns)
				changed = true;
		}
		return !changed;
	}
};

class gated_peer : public lt::peer_plugin {
public:
	gated_peer(lt::peer_connection_handle pc, std::shared_ptr<gate> g, std::shared_ptr<published> p)
		: connection(std::move(pc)), gate_(std::move(g)), published_(std::move(p))
	{
		if (connection.is_outgoing())
			port = connection.remote().port();
	}
	bool on_handshake(lt::span<char const> reserved) override
	{
		if (!connection.is_outgoing() && !(reserved[5] & 0x10) && !admitted())
			refuse();     /* it cannot speak BEP 10, and will never name its port */
		return true;
	}
	bool on_extension_handshake(lt::bdecode_node const &handshake) override
	{
		if (!connection.is_outgoing() && handshake.type() == lt::bdecode_node::dict_t)
			port = static_cast<int>(handshake.dict_find_int_value("p", 0));
		if (!admitted())
			refuse();
		return true;
	}
	bool on_request(lt::peer_request const &) override
	{
		if (!admitted())
			return true;
		return published_ && !published_->unchanged();
	}
	bool on_piece(lt::peer_request const &, lt::span<char const>) override
	{
		return !admitted();
	}
	void tick() override
	{
		if (!admitted() && (port != 0 || ++ticks > HANDSHAKE_TICKS))
			refuse();
	}

private:
	bool admitted() const { return gate_->admits(connection.remote().address(), port); }
	void refuse()
	{
		if (!connection.is_disconnecting())
			connection.disconnect(lt::errors::banned_by_ip_filter, lt::operation_t::bittorrent);
	}

	lt::peer_connection_handle connection;
	std::shared_ptr<gate> gate_;
	std::shared_ptr<published> published_;
	int port = 0;                 /* it listens on; 0: not said yet */
	int ticks = 0;
};

class gated_torrent : public lt::torrent_plugin {
public:
	gated_torrent(std::shared_ptr<gate> g, std::shared_ptr<published> p) : gate_(std::move(g)), published_(std::move(p)) {}
	std::shared_ptr<lt::peer_plugin> new_connection(lt::peer_connection_handle const &pc) override
	{
		return std::make_shared<gated_peer>(pc, gate_, published_);
	}

private:
	std::shared_ptr<gate> gate_;
	std::shared_ptr<published> published_;
};

/* Everything is blocked but the hosts of peers. */
lt::ip_filter filter_of(const std::vector<lt::tcp::endpoint> &peers)
{
	lt::ip_filter filter;

	filter.add_rule(lt::address_v4(), lt::address_v4::broadcast(), lt::ip_filter::blocked);
	lt::address_v6::bytes_type last;
	last.fill(0xff);
	filter.add_rule(lt::address_v6(), lt::address_v6(last), lt::ip_filter::blocked);
	for (const auto &peer : peers) {
		filter.add_rule(peer.address(), peer.address(), 0);
		if (peer.address().is_v4()) {
			lt::address_v6::bytes_type mapped{};
			auto four = peer.address().to_v4().to_bytes();

			mapped[10] = mapped[11] = 0xff;
			std::copy(four.begin(), four.end(), mapped.begin() + 12);
			filter.add_rule(lt::address_v6(mapped), lt::address_v6(mapped), 0);
		}
	}
	return filter;
}

} // namespace

/* ------------------------------------------------------------------------------------------ the session */

namespace {

struct entry {
	uint32_t id = 0;
	uint32_t n_pieces = 0;
	lt::torrent_handle handle;                        /* once added */
	bool added = false, removed = false, complete = false;
	bool refused = false;                             /* could not be added: no alert will follow its removal */
	bool gone = false;                                /* TORRENT_REMOVED was told */
	unsigned tries = 0;
	bool changed_told = false;
	unsigned retries = 0;                             /* left of a retry under way: errors are not told meanwhile */
	bool stuck = false;                               /* as of the last status: stopped by an error */
	struct torrent_event unheard = {};                /* the last error */
	unsigned peers = 0;
	std::vector<lt::download_priority_t> priorities;  /* as last wanted; empty for published files */
	std::shared_ptr<published> origin;
};

/* post_session_stats() is answered in order, after everything that came before it: a mark in the stream of alerts. */
struct marker {
	uint32_t id;                  /* 0: torrent_session_drain() */
	bool second;                  /* of a retry */
};

} // namespace

struct torrent_session {
	std::unique_ptr<lt::session> session;
	std::map<uint32_t, std::unique_ptr<entry>> entries;   /* removed ones stay: late alerts may name them */
	std::shared_ptr<gate> who = std::make_shared<gate>();
	std::vector<lt::tcp::endpoint> peers;
	uint16_t port = 0;
	std::function<void()> wake;
	std::deque<struct marker> markers;                    /* what each session_stats_alert to come stands for */
	unsigned polls = 0;
	bool draining = false;
};

namespace {

lt::settings_pack settings(const std::string &interfaces)
{
	lt::settings_pack s;

	s.set_str(lt::settings_pack::listen_interfaces, interfaces);
	s.set_str(lt::settings_pack::user_agent, "essaim");
	s.set_str(lt::settings_pack::peer_fingerprint, lt::generate_fingerprint("ES", 0, 1, 0, 0));
	s.set_int(lt::settings_pack::alert_mask, static_cast<int>(static_cast<std::uint32_t>(
		lt::alert_category::status | lt::alert_category::error | lt::alert_category::storage)));
	s.set_int(lt::settings_pack::alert_queue_size, 10000);

	/* Nothing is announced, nobody is looked for, TCP only. */
	s.set_bool(lt::settings_pack::enable_dht, false);
	s.set_bool(lt::settings_pack::enable_lsd, false);
	s.set_bool(lt::settings_pack::enable_upnp, false);
	s.set_bool(lt::settings_pack::enable_natpmp, false);
	s.set_bool(lt::settings_pack::enable_incoming_utp, false);
	s.set_bool(lt::settings_pack::enable_outgoing_utp, false);
	s.set_int(lt::settings_pack::max_retry_port_bind, 0);
	s.set_bool(lt::settings_pack::listen_system_port_fallback, false);
	/* Obfuscation is no protection; other clients may ask for it. */
	s.set_int(lt::settings_pack::out_enc_policy, lt::settings_pack::pe_disabled);
	s.set_int(lt::settings_pack::in_enc_policy, lt::settings_pack::pe_enabled);

	/* Few peers, all known: everyone is served, and a lost one is dialled again soon. */
	s.set_bool(lt::settings_pack::allow_multiple_connections_per_ip, true);
	s.set_bool(lt::settings_pack::close_redundant_connections, false);
	s.set_int(lt::settings_pack::unchoke_slots_limit, -1);
	s.set_int(lt::settings_pack::min_reconnect_time, 1);
	s.set_int(lt::settings_pack::max_failcount, 1000);
	s.set_int(lt::settings_pack::connection_speed, 50);
	s.set_int(lt::settings_pack::peer_connect_timeout, 10);
	s.set_int(lt::settings_pack::handshake_timeout, 10);
	s.set_int(lt::settings_pack::tick_interval, 250);
	/* Of several that fetch from one, each asks it for what the others have not asked for: the less is asked for ahead, the less often two
	 * ask for the same piece and the source sends it twice. A second is enough for any round trip. */
	s.set_int(lt::settings_pack::request_queue_time, 1);
	s.set_bool(lt::settings_pack::strict_end_game_mode, true);
	s.set_int(lt::settings_pack::active_limit, -1);
	s.set_int(lt::settings_pack::active_checking, -1);
	return s;
}

/* Waits, at start-up only, until each interface was opened or refused. */
int await_listening(struct torrent_session *session, size_t interfaces, char *why, size_t why_size)
{
	auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
	size_t answered = 0;
	std::string refusal;
	bool taken = false;

	while (answered < interfaces && std::chrono::steady_clock::now() < deadline) {
		std::vector<lt::alert *> alerts;

		session->session->wait_for_alert(std::chrono::milliseconds(200));
		session->session->pop_alerts(&alerts);
		for (lt::alert *a : alerts) {
			if (auto *ok = lt::alert_cast<lt::listen_succeeded_alert>(a)) {
				if (ok->socket_type != lt::socket_type_t::tcp)
					continue;
				answered++;
				session->port = static_cast<uint16_t>(ok->port);
			} else if (auto *bad = lt::alert_cast<lt::listen_failed_alert>(a)) {
				answered++;
				refusal = bad->error.message();
				taken = taken || bad->error == boost::system::errc::address_in_use;
			}
		}
	}
	if (session->port != 0 && !taken)
		return 0;          /* a machine without IPv6, perhaps */
	say(why, why_size, "cannot listen for torrents: %s; choose another port or address in essaim.conf",
	    refusal.empty() ? "no answer from the system" : refusal.c_str());
	return taken ? -EADDRINUSE : -EADDRNOTAVAIL;
}

/* A port that is free on IPv4 and IPv6 alike, so that one number can be advertised; 0 when there is none. */
uint16_t free_port()
{
	lt::io_context context;
	lt::error_code ec;
	lt::tcp::acceptor six(context), four(context);

	four.open(lt::tcp::v4(), ec);
	four.bind({lt::address_v4(), 0}, ec);
	uint16_t port = ec ? 0 : four.local_endpoint(ec).port();
	if (six.open(lt::tcp::v6(), ec); ec)
		return port;
	six.set_option(boost::asio::ip::v6_only(true), ec);
	six.bind({lt::address_v6(), port}, ec);
	return ec == boost::system::errc::address_in_use ? 0 : port;
}

std::vector<lt::download_priority_t> priorities_of(const uint8_t *want, const uint8_t *first, uint32_t n)
{
	std::vector<lt::download_priority_t> out(n, lt::dont_download);

	for (uint32_t i = 0; i < n && want; i++) {
		if (pieces_get(want, i))
			out[i] = first && pieces_get(first, i) ? lt::top_priority : lt::default_priority;
	}
	return out;
}

entry *find(struct torrent_session *session, uint32_t id)
{
	auto it = session->entries.find(id);

	return it == session->entries.end() || it->second->removed ? nullptr : it->second.get();
}

void dial(struct torrent_session *session, entry *e)
{
	for (const auto &peer : session->peers) {
		if (peer.port() != 0)
			e->handle.connect_peer(peer, {}, {});
	}
}

void mark(struct torrent_session *session, uint32_t id, bool second)
{
	session->markers.push_back({id, second});
	session->session->post_session_stats();
}

/* Lets a stopped torrent go on. A write that failed before this may still be told after it, and stop the torrent
 * again: hence two marks (the second is behind anything that was under way at the first) and a few attempts. */
void attempt(struct torrent_session *session, entry *e)
{
	e->handle.clear_error();
	if (!e->origin)
		e->handle.unset_flags(lt::torrent_flags::upload_mode);
	e->handle.resume();
	mark(session, e->id, false);
}

} // namespace

extern "C" int torrent_session_open(struct torrent_session **out, const char *host, uint16_t port, void (*wake)(void *arg),
				    void *arg, char *why, size_t why_size)
{
	/* The library's threads must not take the daemon's signals. */
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int err = fenced(why, why_size, [&] {
		auto session = std::make_unique<torrent_session>();
		std::string name = host ? host : "", interfaces;
		size_t n = 1;

		if (name.empty()) {
			for (int tries = 0; port == 0 && tries < 20; tries++)
				port = free_port();
			interfaces = "0.0.0.0:" + std::to_string(port) + ",[::]:" + std::to_string(port);
			n = 2;
		} else {
			if (name.find(':') != std::string::npos && name[0] != '[')
				name = "[" + name + "]";
			interfaces = name + ":" + std::to_string(port);
		}

		lt::session_params params(settings(interfaces), {});
		params.disk_io_constructor = lt::posix_disk_io_constructor;
		params.ip_filter = filter_of({});
		session->session = std::make_unique<lt::session>(std::move(params));
		session->session->add_extension(&lt::create_smart_ban_plugin);
		int failed = await_listening(session.get(), n, why, why_size);
		if (failed)
			return failed;
		session->wake = [wake, arg] { wake(arg); };
		session->session->set_alert_notify(session->wake);
		*out = session.release();
		return 0;
	});
	pthread_sigmask(SIG_SETMASK, &before, nullptr);
	return err;
}

extern "C" uint16_t torrent_session_port(const struct torrent_session *session)
{
	return session->port;
}

extern "C" void torrent_session_close(struct torrent_session *session)
{
	if (!session)
		return;
	fenced(nullptr, 0, [&] {
		lt::session_proxy proxy = session->session->abort();

		session->session.reset();      /* the proxy's end waits for the thread and the files */
		return 0;
	});
	delete session;
}

extern "C" int torrent_session_add(struct torrent_session *session, uint32_t id, const struct torrent_add *add, char *why,
				   size_t why_size)
{
	return fenced(why, why_size, [&] {
		lt::add_torrent_params params = load(add->body);
		std::vector<lt::file_index_t> files = match_files(*params.ti, add->body);
		auto e = std::make_unique<entry>();

		if (files.size() != add->layout->n_files)
			return static_cast<int>(ERR_MALFORMED);
		e->id = id;
		e->n_pieces = add->layout->n_pieces;
		std::string folder = add->paths[0];
		params.save_path = folder.substr(0, folder.find_last_of('/') + 1);
		for (size_t i = 0; i < files.size(); i++)
			params.renamed_files[files[i]] = add->paths[i];
		params.flags = lt::torrent_flags::update_subscribe | lt::torrent_flags::apply_ip_filter |
			       lt::torrent_flags::duplicate_is_error | lt::torrent_flags::disable_dht |
			       lt::torrent_flags::disable_lsd | lt::torrent_flags::disable_pex;
		if (add->stamps) {
			e->origin = std::make_shared<published>();
			e->origin->paths.assign(add->paths, add->paths + files.size());
			e->origin->stamps.assign(add->stamps, add->stamps + files.size());
			params.flags |= lt::torrent_flags::upload_mode;
			if (add->have)     /* all of it; each piece is hashed once more before it is first sent */
				params.flags |= lt::torrent_flags::seed_mode;
		} else {
			e->priorities = priorities_of(add->want, add->first, e->n_pieces);
			params.piece_priorities = e->priorities;
			if (add->have) {
				params.have_pieces.resize(static_cast<int>(e->n_pieces), false);
				for (uint32_t i = 0; i < e->n_pieces; i++) {
					if (pieces_get(add->have, i))
						params.have_pieces.set_bit(lt::piece_index_t(static_cast<int>(i)));
				}
			}
		}
		params.extensions.push_back([who = session->who, origin = e->origin](lt::torrent_handle const &, lt::client_data_t) {
			return std::make_shared<gated_torrent>(who, origin);
		});
		params.userdata = lt::client_data_t(e.get());
		session->entries[id] = std::move(e);
		session->session->async_add_torrent(std::move(params));
		return 0;
	});
}

extern "C" void torrent_session_want(struct torrent_session *session, uint32_t id, const uint8_t *want, const uint8_t *first)
{
	fenced(nullptr, 0, [&] {
		entry *e = find(session, id);

		if (!e || e->origin)
			return 0;
		e->priorities = priorities_of(want, first, e->n_pieces);
		e->complete = false;
		if (e->added) {
			e->handle.prioritize_pieces(e->priorities);
			dial(session, e);
		}
		return 0;
	});
}

extern "C" void torrent_session_retry(struct torrent_session *session, uint32_t id)
{
	fenced(nullptr, 0, [&] {
		entry *e = find(session, id);

		if (!e || !e->added)
			return 0;
		bool under_way = e->retries > 0;

		e->retries = RETRIES;
		if (!under_way)
			attempt(session, e);
		dial(session, e);
		return 0;
	});
}

extern "C" void torrent_session_remove(struct torrent_session *session, uint32_t id)
{
	fenced(nullptr, 0, [&] {
		entry *e = find(session, id);

		if (!e)
			return 0;
		e->removed = true;
		if (e->added)
			session->session->remove_torrent(e->handle);
		else if (e->refused)
			session->wake();
		return 0;          /* else when it has been added */
	});
}

extern "C" void torrent_session_set_peers(struct torrent_session *session, const struct sockaddr_storage *peers, size_t n)
{
	fenced(nullptr, 0, [&] {
		std::vector<lt::tcp::endpoint> list;

		for (size_t i = 0; i < n; i++) {
			if (peers[i].ss_family == AF_INET) {
				auto *in = reinterpret_cast<const struct sockaddr_in *>(&peers[i]);

				list.emplace_back(lt::address_v4(ntohl(in->sin_addr.s_addr)), ntohs(in->sin_port));
			} else if (peers[i].ss_family == AF_INET6) {
				auto *in = reinterpret_cast<const struct sockaddr_in6 *>(&peers[i]);
				lt::address_v6::bytes_type bytes;

				memcpy(bytes.data(), &in->sin6_addr, bytes.size());
				list.emplace_back(gate::unmapped(lt::address_v6(bytes, in->sin6_scope_id)), ntohs(in->sin6_port));
			}
		}
		std::sort(list.begin(), list.end());
		list.erase(std::unique(list.begin(), list.end()), list.end());
		if (list == session->peers)
			return 0;          /* who says so every few seconds costs nothing */
		session->who->set(list);
		session->session->set_ip_filter(filter_of(list));
		session->peers = std::move(list);
		for (auto &it : session->entries) {
			if (it.second->added && !it.second->removed)
				dial(session, it.second.get());
		}
		return 0;
	});
}

extern "C" void torrent_session_poll(struct torrent_session *session)
{
	fenced(nullptr, 0, [&] {
		if (session->draining)
			return 0;
		session->polls++;
		session->session->post_torrent_updates(lt::torrent_handle::query_pieces);
		for (auto &it : session->entries) {
			entry *e = it.second.get();

			if (!e->added || e->removed)
				continue;
			if (e->complete ? e->peers == 0 && session->polls % REDIAL_POLLS_IDLE == 0
					: e->peers < session->peers.size() && session->polls % REDIAL_POLLS == 0)
				dial(session, e);
		}
		return 0;
	});
}

extern "C" void torrent_session_drain(struct torrent_session *session)
{
	fenced(nullptr, 0, [&] {
		session->draining = true;
		session->session->pause();
		for (auto &it : session->entries) {
			if (it.second->added && !it.second->removed)
				it.second->handle.post_status(lt::torrent_handle::query_pieces);
		}
		mark(session, 0, false);                     /* answered after all of those */
		return 0;
	});
}

/* ------------------------------------------------------------------------------------------ what happened */

namespace {

struct listener {
	struct torrent_session *session;
	void (*on_event)(void *arg, const struct torrent_event *event);
	void *arg;

	void tell(const struct torrent_event &event) const { on_event(arg, &event); }

	void status(const lt::torrent_status &st) const
	{
		auto *e = st.handle.userdata().get<entry>();
		struct torrent_event event = {};

		if (!e || e->removed)
			return;
		std::vector<uint8_t> have(PIECES_BYTES(e->n_pieces), 0);
		uint32_t n = std::min(e->n_pieces, static_cast<uint32_t>(st.pieces.size()));

		for (uint32_t i = 0; i < n; i++) {
			if (st.pieces.get_bit(lt::piece_index_t(static_cast<int>(i))))
				pieces_set(have.data(), i);
		}
		e->peers = static_cast<unsigned>(std::max(0, st.num_peers));
		e->complete = st.is_finished;
		e->stuck = !e->origin && (st.errc || (st.flags & lt::torrent_flags::upload_mode));
		event.kind = TORRENT_STATUS;
		event.id = e->id;
		event.checking = st.state == lt::torrent_status::checking_files ||
				 st.state == lt::torrent_status::checking_resume_data;
		event.permille = static_cast<unsigned>(st.progress * 1000.f);
		event.have = have.data();
		event.n_pieces = e->n_pieces;
		event.rate = static_cast<uint64_t>(std::max(0, st.download_payload_rate));
		event.peers = e->peers;
		tell(event);           /* st.errc comes as an alert of its own; here it may be from before a retry */
	}

	void stopped(entry *e, const lt::error_code &ec, const char *path) const
	{
		struct torrent_event event = {};

		event.kind = TORRENT_STOPPED;
		event.id = e->id;
		event.err = errno_of(ec);
		say(event.why, sizeof event.why, "%s%s%s", path, *path ? ": " : "", ec.message().c_str());
		e->unheard = event;
		if (!e->retries)
			tell(event);
	}

	void marked() const
	{
		if (session->markers.empty())
			return;
		struct marker m = session->markers.front();
		session->markers.pop_front();
		if (m.id == 0) {
			struct torrent_event event = {};

			event.kind = TORRENT_DRAINED;
			tell(event);
			return;
		}
		entry *e = find(session, m.id);

		if (!e || !e->retries)
			return;
		if (!m.second) {
			e->handle.post_status(lt::torrent_handle::query_pieces);
			mark(session, m.id, true);
		} else if (!e->stuck) {
			e->retries = 0;
		} else if (--e->retries > 0) {
			attempt(session, e);
		} else {
			tell(e->unheard);      /* it happens again and again */
		}
	}

	void added(const lt::add_torrent_alert *a) const
	{
		auto *e = a->params.userdata.get<entry>();

		if (!e)
			return;
		if (a->error == lt::error_code(lt::errors::duplicate_torrent) && e->tries++ < ADD_TRIES && !e->removed) {
			/* The same torrent, added a moment ago, is still being removed. */
			session->session->async_add_torrent(a->params);
			return;
		}
		if (a->error) {
			e->refused = true;
			if (!e->removed)
				stopped(e, a->error, "");
			return;
		}
		e->handle = a->handle;
		e->added = true;
		if (e->removed) {
			session->session->remove_torrent(e->handle);
			return;
		}
		if (!e->origin)          /* they may have moved on meanwhile */
			e->handle.prioritize_pieces(e->priorities);
		dial(session, e);
		e->handle.post_status(lt::torrent_handle::query_pieces);
	}

	void gone(entry *e) const
	{
		struct torrent_event event = {};

		if (e->gone)
			return;
		e->gone = true;
		event.kind = TORRENT_REMOVED;
		event.id = e->id;
		e->handle = {};
		tell(event);
	}

	void one(lt::alert *alert) const
	{
		if (auto *update = lt::alert_cast<lt::state_update_alert>(alert)) {
			for (const auto &st : update->status)
				status(st);
		} else if (auto *a = lt::alert_cast<lt::add_torrent_alert>(alert)) {
			added(a);
		} else if (auto *removed = lt::alert_cast<lt::torrent_removed_alert>(alert)) {
			if (auto *e = removed->userdata.get<entry>())
				gone(e);
		} else if (lt::alert_cast<lt::session_stats_alert>(alert)) {
			marked();
		} else if (auto *t = dynamic_cast<lt::torrent_alert *>(alert)) {
			auto *e = t->handle.is_valid() ? t->handle.userdata().get<entry>() : nullptr;

			if (e && !e->removed)
				of_torrent(e, t);
		}
	}

	void of_torrent(entry *e, lt::torrent_alert *alert) const
	{
		if (auto *f = lt::alert_cast<lt::file_error_alert>(alert)) {
			stopped(e, f->error, f->filename());
		} else if (auto *err = lt::alert_cast<lt::torrent_error_alert>(alert)) {
			stopped(e, err->error, err->filename());
		} else if (auto *bad = lt::alert_cast<lt::hash_failed_alert>(alert)) {
			struct torrent_event event = {};

			event.kind = TORRENT_BAD_PIECE;
			event.id = e->id;
			event.piece = static_cast<uint32_t>(static_cast<int>(bad->piece_index));
			tell(event);
		} else if (lt::alert_cast<lt::torrent_finished_alert>(alert) || lt::alert_cast<lt::torrent_checked_alert>(alert) ||
			   lt::alert_cast<lt::state_changed_alert>(alert)) {
			e->handle.post_status(lt::torrent_handle::query_pieces);
		}
	}
};

} // namespace

extern "C" void torrent_session_events(struct torrent_session *session,
				       void (*on_event)(void *arg, const struct torrent_event *event), void *arg)
{
	fenced(nullptr, 0, [&] {
		listener l{session, on_event, arg};
		std::vector<lt::alert *> alerts;

		for (session->session->pop_alerts(&alerts); !alerts.empty(); session->session->pop_alerts(&alerts)) {
			for (lt::alert *alert : alerts)
				l.one(alert);
		}
		for (auto &it : session->entries) {
			entry *e = it.second.get();

			if (e->removed && e->refused)
				l.gone(e);
			if (e->removed || e->changed_told || !e->origin || !e->origin->changed)
				continue;
			struct torrent_event event = {};

			e->changed_told = true;
			event.kind = TORRENT_CHANGED;
			event.id = e->id;
			l.tell(event);
		}
		return 0;
	});
}
