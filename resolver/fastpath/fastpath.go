// Package fastpath has the kernel answer questions: kept answers are put into memory
// that a program at the ingress of network devices reads (kernel/answer.c). A question
// that it knows is answered before a socket is reached; everything else goes on to the
// socket, unchanged.
//
// An answer is never stale. Every app of a network has a generation, a number that
// is odd while the app changes, and another even one afterwards; so has what all
// answers depend on, the registry's status. An answer holds while both are what they
// were before it was computed or was last seen to hold:
//
//   - What was read before the number became odd never matches again.
//   - What was read while it was odd is refused.
//   - What was read after it became even belongs to an answer that was looked at after the
//     change could be seen.
//
// Apps share generations by a hash, so that a change of one may cost another's answers
// a way to the socket, and never their truth. A lease, renewed while dnsd is well, ends
// the answers of a process that stands still; the programs go with their process.
package fastpath

import (
	"net/netip"
	"sync/atomic"
)

// Bounds of what is answered in the kernel: those of kernel/answer.c.
const (
	maxName    = 96  // of a question's name, in bytes; a multiple of 8
	maxRecords = 512 // of a response, in bytes: 18 addresses
	maxOPT     = 128 // with its extended errors, in bytes

	// Counters is how many counters answers may be counted by.
	Counters = 24
)

// Answer is an answer that the kernel can give: to a type and name, to all clients of
// a network that lies within fdaa::/16. It must not change once it was given to Put.
type Answer struct {
	Network    netip.Prefix // a /48
	Type       uint16
	Name       []byte // in wire form, A to Z in lower case
	Generation Generation

	Flags     uint16 // the header's second word, without RD
	Answers   uint16 // how many records of either section there are: one of the two is zero
	Authority uint16
	Records   []byte // of that section, in wire form
	TurnLen   int    // length of each of the records, all of which take turns; 0: the order is fixed
	OPT       []byte // towards clients that have sent one, in wire form, without DO

	Counter uint8 // which counter of Answered counts it

	place atomic.Pointer[place] // nil: it waits to be placed
}

// fits reports whether the kernel can give the answer. Records of odd length do not take turns there
// because the checksum of a response would depend on whose turn it is.
func (a *Answer) fits() bool {
	return len(a.Name) <= maxName && len(a.Records) > 0 && len(a.Records) <= maxRecords && len(a.OPT) <= maxOPT && a.TurnLen%2 == 0
}

// refused is the place of answers that the kernel cannot give: there is nothing to be
// gained from putting them again.
var refused place

// Stands reports whether there is nothing to be gained from putting the answer again,
// as of a generation: it waits to be placed, or it is there.
func (a *Answer) Stands(g Generation) bool {
	if a.Generation != g {
		return false
	}
	p := a.place.Load()
	return p == nil || !p.gone.Load()
}

// Result is what the programs have made of a packet for dnsd.
type Result int

// The results, in the order of kernel/answer.c.
const (
	Hit   Result = iota // answered
	Miss                // not known
	Stale               // known, but it may have changed, or the lease is over
	Route               // the answer would leave by another way than the question came
	Shape               // a question that is not of the simplest form, or an answer too long for its client
	results
)

// String returns the result as metrics have it.
func (r Result) String() string { return [...]string{"hit", "miss", "stale", "route", "shape"}[r] }

// counts are what the programs count: struct counts of kernel/answer.c.
type counts struct {
	Results [results]uint64
	Types   [Counters]uint64
}
