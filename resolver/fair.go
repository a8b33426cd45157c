package resolver

import (
	"encoding/binary"
	"net/netip"
	"time"

	"dnsd/resolver/internal/udpbatch"
)

// A UDP socket serves the machines of many networks in one loop, so all networks wait
// for what each one's questions cost. Three rules keep that short:
//
//   - An answer that takes long is not computed in the loop (Question.Pause).
//   - An expensive answer that is computed in the loop is charged to its network. Once
//     a network has used up its budget, its expensive questions are computed
//     elsewhere, in turn with other networks (package turns).
//   - When more is asked than the loop can answer (backlog), questions of the networks
//     that ask most are dropped, and those networks are set aside (aside).

const (
	// expensive is how long an answer takes that is charged: some ten times what
	// the usual question costs with its packets.
	expensive = 50 * time.Microsecond
	// dearest is what is charged for an answer at most: some times the longest that a
	// zone takes where a socket waits (Question.Pause). What took longer was in a
	// process that got no processor meanwhile, which is no fault of the network's.
	dearest = 300 * time.Microsecond
	// coldAnswers is how many answers a loop computes before any is charged. When it
	// starts, nothing is kept, no processor's cache has what an answer needs, and what
	// has waited for it comes at once. They take half a second if all of them are dear.
	coldAnswers = 4096
	// A network may take a sixteenth of a loop's time for expensive answers, and
	// budgetMost at once, which others do not notice.
	budgetPart = 16
	budgetMost = 2 * time.Millisecond
)

// budget counts what a network takes of one loop's time for expensive answers.
// The zero value is ready. The loop owns it.
type budget struct {
	spent time.Duration // less what has been earned back until at
	at    time.Time
}

// allows reports whether the next question may be computed in the loop.
func (b *budget) allows(now time.Time) bool {
	if b.spent == 0 {
		return true
	}
	b.spent = max(b.spent-now.Sub(b.at)/budgetPart, 0)
	b.at = now
	return b.spent < budgetMost
}

// charge counts an answer that was computed.
func (b *budget) charge(now time.Time, took time.Duration) {
	if took >= expensive {
		b.spent += min(took, dearest)
		b.at = now
	}
}

const (
	// burst is how many packets in full batches the loop may read in a row before it
	// counts as overloaded: some 0.15 s of work. They are counted, not timed, because a
	// process that gets no processor for a while finds full batches as well: at 6,000
	// questions a second these are what comes in 2.7 s.
	burst = 256 * udpbatch.Size
	// sideBurst is that for a side socket, of which only is to be known whether they
	// still flood who did: some times what its queue holds.
	sideBurst = 16 * udpbatch.Size
	// overloadHold is for how long after an overload a single full batch is another
	// one, so that the queue stays short.
	overloadHold = time.Second
	// stampHold is for how long after an overload packets carry the time of their
	// receipt. That costs a twentieth of a query, and switching it costs the kernel
	// some work.
	stampHold = 10 * time.Second
	// leastAnswered is how many questions of a batch are always answered. Dropping a
	// question costs a fifth of answering it.
	leastAnswered = 4
)

// backlog decides which questions of a batch go unanswered because more are asked
// than the loop can answer. The loop owns it.
type backlog struct {
	full     int       // full batches in a row
	patience int       // how many packets they may have before the loop counts as overloaded
	overload time.Time // until when it does
}

// greedy is how many questions of a batch a network has that is set aside. Where none
// has that many, no single network is the cause.
const greedy = udpbatch.Size / 4

// excess marks in over the questions of a batch of n, read at now, that are to be
// dropped, and returns how many they are: none of a burst, and then, with each full
// batch in a row, more, until the queue is empty. It also returns the index of a packet
// of the network to be set aside, -1 for none.
func (b *backlog) excess(c *udpbatch.Conn, n, burst int, now time.Time, over *[udpbatch.Size]bool) (passed, greediest int) {
	if n < udpbatch.Size {
		b.full = 0
		return 0, -1
	}
	if b.full++; b.full == 1 {
		// What has waited while nobody read the socket is no overload: it is read
		// before as much again has come.
		b.patience = max(burst, 2*c.Waiting())
	}
	if b.full*udpbatch.Size <= b.patience && now.After(b.overload) {
		return 0, -1
	}
	b.overload = now.Add(overloadHold)
	var askers [udpbatch.Size]uint64
	for i := range n {
		askers[i] = askerOf(c.From(i).Addr())
	}
	passed, most, greediest := share(askers[:n], max(udpbatch.Size>>min(b.full, 8), leastAnswered), over)
	if most < greedy {
		greediest = -1
	}
	return passed, greediest
}

// wantsStamps reports whether packets should carry the time of their receipt.
func (b *backlog) wantsStamps(now time.Time) bool { return now.Before(b.overload.Add(stampHold)) }

// share chooses some answer questions of a batch, given who asks each, and marks all
// others in over; it returns how many those are. Askers get equal shares, none more
// than it asks for and each at least one, so that one that asks little loses nothing.
// It also returns how many questions the one that asks most has, and the index of
// its last one.
func share(askers []uint64, answer int, over *[udpbatch.Size]bool) (passed, most, last int) {
	// A crowded batch has few networks, so that a linear search is quick.
	var networks [udpbatch.Size]uint64
	var asked, served [udpbatch.Size]int
	var of [udpbatch.Size]int
	k := 0
	for i, w := range askers {
		j := 0
		for j < k && networks[j] != w {
			j++
		}
		if j == k {
			networks[k] = w
			k++
		}
		of[i] = j
		if asked[j]++; asked[j] > most {
			most, last = asked[j], i
		}
	}
	part := fairPart(asked[:k], answer)
	for i, j := range of[:len(askers)] {
		if over[i] = served[j] >= part; over[i] {
			passed++
		}
		served[j]++
	}
	return passed, most, last
}

// fairPart returns the most questions that each asker may have of total, at least
// one, so that the sum is as close to total as it can be without exceeding it.
func fairPart(asked []int, total int) int {
	part := 1
	for {
		sum := 0
		for _, n := range asked {
			sum += min(n, part+1)
		}
		if sum > total || part >= udpbatch.Size {
			return part
		}
		part++
	}
}

// askerOf returns a number for each prefix that sharer returns, except that IPv6
// clients outside of the private networks count by their /56.
func askerOf(a netip.Addr) uint64 {
	const v4 = 1 << 63
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return v4 | uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	bits := binary.BigEndian.Uint64(b[:])
	if b[0] == 0xfd && b[1] == 0xaa {
		return bits >> 16
	}
	return bits >> 8 &^ v4
}
