/* dialled.c: how an address failed, in words. Each is one sentence without values, so that it can be said in another language.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>

#include "daemon/daemon.h"

const char *dialled_how(int why)
{
	switch (why) {
	case 0:
		return N_("it answers");
	case UV_ECONNREFUSED:
		return N_("connection refused: nothing listens on that port");
	case UV_ETIMEDOUT:
		return N_("no answer: the machine is off, the address is another's, or a router or firewall does not let the port through");
	case UV_EHOSTUNREACH:
	case UV_ENETUNREACH:
	case UV_EAFNOSUPPORT:
		return N_("no route: this machine has no way to that address");
	case UV_EAI_NONAME:
	case UV_EAI_NODATA:
	case UV_EAI_AGAIN:
	case UV_EAI_FAIL:
		return N_("the name is not known: is it spelt right, and does this machine's DNS work?");
	case -ETIME:
		return N_("something accepts the connection and says nothing: not Essaim, or overloaded");
	case UV_EOF:
	case UV_ECONNRESET:
	case UV_EPIPE:
		return N_("something accepts the connection and closes it without a word: not Essaim, or an older version of it");
	case ERR_MALFORMED:
		return N_("not Essaim: another program answers on that port");
	case ERR_CRYPTO:
		return N_("another node than expected answers there, or one of another network");
	case ERR_SIGNATURE:
		return N_("what answers there cannot prove that it is the node expected, or the invitation was altered");
	case ERR_VERSION:
		return N_("it speaks another version of the protocol");
	case ERR_CLOCK:
		return N_("its clock and this machine's differ by more than five minutes");
	case ERR_USED:
		return N_("the invitation was used before");
	case ERR_EXPIRED:
		return N_("the invitation has expired");
	case ERR_UNKNOWN:
		return N_("it does not know this invitation");
	default:
		return err_str(why);
	}
}
