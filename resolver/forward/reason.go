package forward

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("no answer within %s", e.after) }

// Reasons of failures, as the metric has them.
const (
	reasonTimeout   = "timeout"
	reasonNetwork   = "network"
	reasonMalformed = "malformed"
	reasonLocal     = "local"
	reasonOvertaken = "overtaken"
	reasonLoop      = "loop"
	reasonInternal  = "internal"
	reasonNone      = "" // not the query's: dnsd is shutting down
)

// reasonOf puts an error into the closed set of the failures metric.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errOvertaken):
		return reasonOvertaken
	case errors.Is(err, errLoop):
		return reasonLoop
	case errors.As(err, new(timeoutError)), errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout
	case errors.Is(err, context.Canceled):
		return reasonNone
	case errors.Is(err, errMalformed):
		return reasonMalformed
	case isLocal(err):
		return reasonLocal
	case errors.Is(err, errInternal):
		return reasonInternal
	}
	return reasonNetwork
}

// sentence says what a client may know of an error. The error itself, which may hold
// addresses of this host, goes to the log.
func sentence(err error) string {
	var timeout timeoutError
	switch {
	case errors.Is(err, errNoUpstream), errors.Is(err, errAllDown), errors.Is(err, errLoop):
		return err.Error()
	case errors.As(err, &timeout):
		return timeout.Error()
	case errors.Is(err, errNeedsTCP):
		return "the answer is too large for UDP, and the upstream cannot be asked over TCP"
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return "dnsd is shutting down"
	case errors.Is(err, errMalformed):
		return "the upstream's answer cannot be read"
	case isLocal(err):
		return "dnsd is short of resources: ask again"
	case isUnreachable(err):
		return "the upstream is unreachable"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the upstream refuses connections"
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(x509.CertificateInvalidError)):
		return "the upstream's certificate is not accepted"
	case errors.Is(err, errStreamGone):
		return "the upstream closed the connection"
	case errors.Is(err, errInternal):
		return "dnsd failed on this question: its log says why"
	}
	return "the upstream cannot be asked"
}

// Replies that need nothing of the question.
var (
	replyNoRecursion = failure(dns.RcodeRefused, dns.ExtendedErrorCodeOther, "not in the cache, and the query asks for no recursion (RD=0)")
	replyBusy        = failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, "too many questions of your network are waiting for upstreams: ask again")
)

// failureOf returns the reply that says why nothing could be resolved.
func failureOf(err error) *Reply {
	code := uint16(dns.ExtendedErrorCodeNoReachableAuthority)
	if errors.Is(err, errLoop) || errors.Is(err, errInternal) {
		code = dns.ExtendedErrorCodeOther
	}
	return failure(dns.RcodeServerFailure, code, sentence(err))
}

// failureReply returns the reply to a question without an answer: the upstream's own
// failure, with its reasons, if it named any.
func failureReply(o *outcome) *Reply {
	if o.answer == nil {
		return failureOf(o.err)
	}
	r := failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority,
		"the upstream answered "+rcodeName(int(o.answer.Rcode)))
	if len(o.answer.EDE) > 0 {
		r.EDE = o.answer.EDE
	}
	return r
}

// isVerdict says whether a failure is about the data, and so not an outage that a stale
// answer may bridge: DNSSEC validation failed (codes 5 to 12, 25 and 27 of the registry of
// RFC 8914), or the name is blocked (15 to 18).
func isVerdict(edes []wire.EDE) bool {
	for _, e := range edes {
		if c := e.Code; c >= 5 && c <= 12 || c >= 15 && c <= 18 || c == 25 || c == 27 {
			return true
		}
	}
	return false
}
