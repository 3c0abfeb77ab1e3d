/* reasons.c: why something failed, in the reader's language, where it came as a sentence alone: from the HTTP API, out of a ring, from another
 * node. The sentence is held against the formats that the daemon's rooms make such sentences from; values in it may be reasons, too. Those that begin with
 * words come first, the longest before the others. tests/reasons.py compares this table with the daemon.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <string.h>

#include "cli/cli.h"
#include "proto/template.h"

#define DEPTH_MAX 3

static const char *const reasons[] = {
	N_("%s. Here: %s"),
	N_("this invitation comes from a newer Essaim (version %llu of invitations): upgrade this one first"),
	N_("this invitation has a space or a line break inside: copy it as one line"),
	N_("this invitation was cut short or changed on its way: copy the whole line, from essaim:// to its end"),
	N_("this is longer than any invitation: copy that one line alone"),
	N_("this is not an invitation: one begins with essaim://join/#"),
	N_("what is left of today's share of the agreement is granted to conversations that run: ask again when they have ended"),
	N_("no place was free within %d s: this node answers as many questions at once as it has memory for ([share] sessions)"),
	N_("no node that answers this association has layers %u to %u ready (see `essaim peers` and `essaim agreement list`)"),
	N_("the engine crashed with signal %d (%s): the log says more; a damaged or hostile model file does this"),
	N_("layers %u to %u of %s are ready on no node that answers this association just now (see: essaim ring %s)"),
	N_("this node answers as many questions at once as it has memory for, and %d wait for a place already"),
	N_("this node does not keep the first and last layers ([share] home = no): ask at a node that does"),
	N_("no node that answers this association has layers %u to %u ready; another node is still fetching"),
	N_("the prompt has %zu tokens and %u more were asked for; this node's context is %u: ask for %zu at most"),
	N_("this node does not hold the first and last layers of %s, so text would have to leave it"),
	N_("their clock is %s ahead of ours: one of the two is wrong (`timedatectl set-ntp true`)"),
	N_("the name in %s is not known (%s): is it spelt right, and does this machine's DNS work?"),
	N_("today's share of the agreement is used up; it begins anew in %u min, at midnight UTC"),
	N_("their clock is %s behind ours: one of the two is wrong (`timedatectl set-ntp true`)"),
	N_("every node that holds layers %u to %u is busy with as many conversations as it takes"),
	N_("not even its smallest useful part fits into the %s that are left of what is shared"),
	N_("several nodes are called '%s': write NODE@ASSOCIATION, or eight digits of its key"),
	N_("the engine asked the kernel for what its sandbox denies (please report this)"),
	N_("no answer from %s within %d s (is it on, and is the port open in its firewall?)"),
	N_("today's share of the agreement is used up; it begins anew at midnight UTC"),
	N_("waiting until this machine has been idle for %u minutes ([share] idle_only)"),
	N_("no agreement in force lets the association use this node for this model"),
	N_("the engine made no progress and was ended (is the machine overloaded?)"),
	N_("the engine was killed (out of memory? lower [share] memory or context)"),
	N_("it can only run whole (%s), which takes %s of memory; %s are shared here"),
	N_("the prompt has %zu tokens; with this node's context of %u at most %u fit"),
	N_("this node computes for as many conversations as it has memory for"),
	N_("no agreement in force lets the association use it for this model"),
	N_("several models are called that: %s; write the one you mean in full"),
	N_("the asking node is not on the roster of the association it names"),
	N_("this association has not approved the model (essaim model pull)"),
	N_("a question that another node answers has at most %u KiB of text"),
	N_("no node called '%s' is known here (essaim peers lists them)"),
	N_("the engine ended by itself with status %d: the log says why"),
	N_("a context of %u was asked for; %u is what this node promises"),
	N_("it answers for %s ([route] gateway in its configuration)"),
	N_("the first and the last stage are the asking node's own"),
	N_("the asking node is on no roster that is known there"),
	N_("the ticket is not valid now: are both clocks right?"),
	N_("no socketpair for an engine: %s (raise LimitNOFILE?)"),
	N_("its first and last layers are not loaded here yet"),
	N_("this node has no memory left for the answer"),
	N_("rows of a wrong size or past the ticket's context"),
	N_("what answers at %s does not speak Essaim's protocol"),
	N_("this node runs no model yet (essaim model list)"),
	N_("no roster in force that is known here names it"),
	N_("no roster that is known here names it"),
	N_("more blocks at once than a session may send"),
	N_("the engine could not be told what to load: %s"),
	N_("this node serves too many sessions just now"),
	N_("the engine answered nonsense and was ended"),
	N_("the engine did not open a session in time"),
	N_("the engine here takes no session just now"),
	N_("the link to the previous stage went down"),
	N_("this node cannot have another one answer"),
	N_("another node answers with that link key"),
	N_("no peer is connected that could send it"),
	N_("an engine's socket cannot be watched: %s"),
	N_("its card names a key that was replaced"),
	N_("paused by essaim.conf ([share] paused)"),
	N_("this node computes nothing just now: %s"),
	N_("the link to the next stage went down"),
	N_("its weights are still arriving here"),
	N_("no such model here; did you mean '%s'"),
	N_("there is no link to the next stage"),
	N_("layers %u to %u are not resident here"),
	N_("the way to the next stage is gone"),
	N_("this node shares nothing just now"),
	N_("; it died %d times within %d minutes"),
	N_("a message from %s does not verify"),
	N_("its weights cannot be fetched: %s"),
	N_("no such model here; there is '%s'"),
	N_("outside its hours, for another %s"),
	N_("its engine cannot be started: %s"),
	N_("checking what is on disk: %u %%"),
	N_("no memory for a message from %s"),
	N_("the engine does not take rows"),
	N_("the engine answered nonsense"),
	N_("a block of rows is missing"),
	N_("it shares nothing just now"),
	N_("its card is another node's"),
	N_("nothing valid from %s for %d s"),
	N_("paused until essaim resume"),
	N_("its card is not sound: %s"),
	N_("the node is going away"),
	N_("connection to %s lost: %s"),
	N_("its card has expired"),
	N_("no handshake with %s: %s"),
	N_("cannot read from %s: %s"),
	N_("no connection to %s: %s"),
	N_("paused for another %s"),
	N_("the engine gave up"),
	N_("the ticket expired"),
	N_("no memory for %s"),
	N_("%llu tokens are left of today's share of the agreement, and a conversation of up to %u was asked for: ask for fewer, or again in %u min"),
	N_("%s cannot be asked in this node's place: %s, and no neighbour can pass it on (see `essaim peers`)"),
	N_("%s closed the connection during the handshake: it does not admit this node, or is not Essaim"),
	N_("%s speaks versions %u to %u of the protocol, this node version %d: update the older of the two"),
	N_("%s began a handshake that does not verify (another network or key, or not Essaim)"),
	N_("%s cannot be written: %s; see to it, then pull the model again"),
	N_("%u pieces from peers failed their hash and were refused"),
	N_("%s cannot be started: %s (is Essaim installed whole?)"),
	N_("%s sent a frame of type %u that does not belong there"),
	N_("%s does not prove that it is the node expected"),
	N_("%s; the ring was set up anew %u times already"),
	N_("%s is still arriving: %s of %s are here, %s left"),
	N_("%s did not finish the handshake within %d s"),
	N_("%s; it happened %u times at the same place"),
	N_("%s asks and does not read the answers"),
	N_("%s sent a frame that cannot be read"),
	N_("%s cannot answer for this node: %s"),
	N_("%s; no other node can take over"),
	N_("%s sent what is not a frame"),
	N_("%s did not say HELLO first"),
	N_("%s sent an engine's frame"),
	N_("%s turns this node away: %s"),
	N_("%s cannot be answered: %s"),
	N_("%s reads nothing for %d s"),
	N_("%s cannot answer now: %s"),
	N_("%s is still arriving: %s"),
	N_("%s closed the link: %s"),
	N_("%s cannot be made: %s"),
	N_("%s was not let in: %s"),
};

static bool fill(const char *format, const char *text, char *out, size_t size, int depth);

static const char *say(const char *text, char *out, size_t size, int depth)
{
	/* A word alone is somebody's name, not ours to translate. */
	if (!text || !strchr(text, ' '))
		return text ? text : "";
	const char *known = translated(text);
	if (known != text || depth == DEPTH_MAX)
		return known;
	for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
		if (fill(reasons[i], text, out, size, depth))
			return out;
	return text;
}

static bool fill(const char *format, const char *text, char *out, size_t size, int depth)
{
	char values[TEMPLATE_VALUES_MAX][TEMPLATE_VALUE_SIZE], said[TEMPLATE_VALUES_MAX][TEMPLATE_VALUE_SIZE];
	const char *parts[TEMPLATE_VALUES_MAX], *local = translated(format);
	size_t n;
	if (local == format || template_match(format, text, values, &n))
		return false;
	for (size_t i = 0; i < n; i++)
		parts[i] = say(values[i], said[i], sizeof said[i], depth + 1);
	return !template_fill(out, size, local, parts, n);
}

const char *reason(const char *text, char *out, size_t size)
{
	return say(text, out, size, 0);
}
