package resolver

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"dnsd/resolver/internal/udpbatch"
	"dnsd/resolver/internal/wire"
)

// typeNames are the types that requests are counted by; all others are "other",
// so that a client cannot make up label values.
var typeNames = [...]string{"other", "A", "AAAA", "ANY", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX",
	"NAPTR", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"}

// typeSlots has each type's place in typeNames.
var typeSlots = func() (slots [dns.TypeCAA + 1]uint8) {
	for i, name := range typeNames {
		slots[dns.StringToType[name]] = uint8(i) // "other" is type 0, which is none
	}
	return slots
}()

func typeSlot(typ uint16) int {
	if int(typ) < len(typeSlots) {
		return int(typeSlots[typ])
	}
	return 0
}

// rcodeNames are the codes that responses are counted by; slot 6 is BADVERS and
// slot 7 what only upstreams send.
var rcodeNames = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS", "other"}

// dropNames are the reasons for which requests over UDP go unanswered: see backlog,
// tooOld and turns.
var dropNames = [...]string{"flood", "old", "slow"}

const (
	dropFlood = iota
	dropOld
	dropSlow
)

func rcodeSlot(rcode uint16) int {
	switch {
	case rcode <= dns.RcodeRefused:
		return int(rcode)
	case rcode == dns.RcodeBadVers:
		return 6
	}
	return 7
}

// durationBounds are the upper bounds of the histograms' buckets: an internal name
// takes some microseconds and an upstream up to 5 s.
var durationBounds = [...]time.Duration{10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 10 * time.Millisecond,
	25 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second}

// stats counts for one socket. Its owner and the goroutines of its deferred questions
// add; a scrape reads. The padding keeps two sockets' stats off the same cache line.
type stats struct {
	_ [64]byte // a cache line of the machines that dnsd runs on

	types     [len(typeNames)]atomic.Uint64
	rcodes    [len(rcodeNames)]atomic.Uint64
	durations [2]histogram // here, forwarded
	truncated atomic.Uint64
	ignored   atomic.Uint64
	dropped   [len(dropNames)]atomic.Uint64
	hits      atomic.Uint64 // answers of the forwarder's cache
	panics    atomic.Uint64
	readErrs  atomic.Uint64
	writeErrs atomic.Uint64

	_ [64]byte

	proto Proto // set once
}

// histogram counts per bucket; the last one has no upper bound.
type histogram struct {
	buckets [len(durationBounds) + 1]atomic.Uint64
	sum     atomic.Uint64 // nanoseconds
}

// count counts a request and its response; nil is silence.
func (x *exchange) count(resp []byte) {
	s := x.stats
	if resp == nil {
		s.ignored.Add(1)
		return
	}
	s.types[typeSlot(x.req.Type)].Add(1)
	s.rcodes[rcodeSlot(x.reply.Rcode)].Add(1)
	if x.reply.Flags&wire.TC != 0 {
		s.truncated.Add(1)
	}
}

// countAlone is count for a request by itself, read at start.
func (x *exchange) countAlone(resp []byte, start time.Time) {
	x.count(resp)
	if resp != nil {
		x.stats.took(x.origin(), time.Since(start), 1)
	}
}

// origin says who answered: 0 for dnsd's own zones and rules, 1 for the forwarder.
func (x *exchange) origin() int {
	if x.forwarded {
		return 1
	}
	return 0
}

// took counts n responses of an origin as having taken d each.
func (s *stats) took(origin int, d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	i := 0
	for i < len(durationBounds) && d > durationBounds[i] {
		i++
	}
	s.durations[origin].buckets[i].Add(n)
	s.durations[origin].sum.Add(n * uint64(max(d, 0)))
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("dnsd_"+name, help, labels, nil)
}

var (
	descRequests    = desc("requests_total", "Requests answered, by question type and protocol.", "type", "proto")
	descResponses   = desc("responses_total", "Responses sent, by response code and protocol.", "rcode", "proto")
	descDuration    = desc("request_duration_seconds", "Time from having read a request to having its response, by protocol and by who answered: dnsd's own zones and rules (local) or the forwarder (forwarded). What the kernel answers (--fast-path) is not in it.", "proto", "origin")
	descTruncated   = desc("responses_truncated_total", "Responses with TC=1, by protocol.", "proto")
	descIgnored     = desc("requests_ignored_total", "Packets that get no response: shorter than a header, or responses themselves.", "proto")
	descUnanswered  = desc("requests_dropped_total", "Requests over UDP that got no response: one of a network that asks more than can be answered (flood), one that was received too long ago (old), one whose answer takes long while too many such ones of its network wait (slow).", "reason")
	descSendDrops   = desc("send_drops_total", "Responses dropped because those sent to their network before still wait in the kernel.")
	descLanes       = desc("send_lanes", "Sockets open that send for one network each because its responses wait in the kernel.")
	descAside       = desc("networks_aside", "Networks set aside because they ask more than can be answered.")
	descSockets     = desc("udp_sockets", "UDP sockets served, by how many packets they move in a system call.", "mode")
	descHits        = desc("forward_cache_hits_total", "Questions answered with a fresh answer that the forwarder had kept.")
	descPanics      = desc("panics_total", "Panics that were survived; each cost a question, or a piece of work for one.")
	descReadErrors  = desc("read_errors_total", "Failed reads from UDP sockets and failed accepts of TCP connections.", "proto")
	descDropped     = desc("receive_drops_total", "Requests that the kernel dropped because a UDP socket's receive queue was full.")
	descWriteErrors = desc("write_errors_total", "Responses that could not be sent.", "proto")
	descConns       = desc("tcp_connections", "TCP connections open now.")
	descEvicted     = desc("tcp_connections_evicted_total", "TCP connections closed to make room for new ones.")
	descRefused     = desc("tcp_connections_refused_total", "TCP connections closed at once because none could make room.")
)

// Describe implements prometheus.Collector.
func (r *Resolver) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(r, ch) }

// Collect implements prometheus.Collector: it sums what the sockets counted.
func (r *Resolver) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	all, sockets := r.stats, r.sockets
	r.mu.Unlock()
	r.collectQuestions(ch, all)
	r.collectSockets(ch, sockets)
}

// collectQuestions emits what was asked and answered.
func (r *Resolver) collectQuestions(ch chan<- prometheus.Metric, all []*stats) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	byKernel, allByKernel := r.kernelAnswered()
	for proto, name := range [...]string{UDP: "udp", TCP: "tcp"} {
		sum := func(of func(*stats) *atomic.Uint64) (n uint64) {
			for _, s := range all {
				if s.proto == Proto(proto) {
					n += of(s).Load()
				}
			}
			return n
		}
		for i, t := range typeNames {
			n := sum(func(s *stats) *atomic.Uint64 { return &s.types[i] })
			if proto == int(UDP) {
				n += byKernel[i]
			}
			counter(descRequests, n, t, name)
		}
		for i, rc := range rcodeNames {
			n := sum(func(s *stats) *atomic.Uint64 { return &s.rcodes[i] })
			if proto == int(UDP) && i == dns.RcodeSuccess {
				n += allByKernel
			}
			counter(descResponses, n, rc, name)
		}
		for i, by := range [...]string{"local", "forwarded"} {
			buckets, total := make(map[float64]uint64, len(durationBounds)), uint64(0)
			for b := range len(durationBounds) + 1 {
				total += sum(func(s *stats) *atomic.Uint64 { return &s.durations[i].buckets[b] })
				if b < len(durationBounds) {
					buckets[durationBounds[b].Seconds()] = total
				}
			}
			took := sum(func(s *stats) *atomic.Uint64 { return &s.durations[i].sum })
			ch <- prometheus.MustNewConstHistogram(descDuration, total, float64(took)/1e9, buckets, name, by)
		}
		counter(descTruncated, sum(func(s *stats) *atomic.Uint64 { return &s.truncated }), name)
		counter(descIgnored, sum(func(s *stats) *atomic.Uint64 { return &s.ignored }), name)
		counter(descReadErrors, sum(func(s *stats) *atomic.Uint64 { return &s.readErrs }), name)
		counter(descWriteErrors, sum(func(s *stats) *atomic.Uint64 { return &s.writeErrs }), name)
	}
	for i, reason := range dropNames {
		var n uint64
		for _, s := range all {
			n += s.dropped[i].Load()
		}
		counter(descUnanswered, n, reason)
	}
	var panics, hits uint64
	if r.cfg.Panics != nil {
		panics = r.cfg.Panics()
	}
	for _, s := range all {
		panics += s.panics.Load()
		hits += s.hits.Load()
	}
	counter(descPanics, panics)
	if r.cfg.Forward != nil {
		counter(descHits, hits)
	}
}

// collectSockets emits the state of sockets, lanes and connections.
func (r *Resolver) collectSockets(ch chan<- prometheus.Metric, sockets []*socket) {
	counter := func(d *prometheus.Desc, n uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	var drops uint64
	open, aside, batched := 0, 0, 0
	for i, l := range r.lanes {
		open += l.count()
		drops += l.drops.Load()
		aside += r.asides[i].count()
	}
	for _, s := range sockets {
		if s.batch.Batched() {
			batched++
		}
	}
	counter(descSendDrops, drops)
	gauge(descLanes, open)
	gauge(descAside, aside)
	gauge(descSockets, batched, "batched")
	gauge(descSockets, len(sockets)-batched, "single")
	counter(descDropped, dropped(sockets))
	conns, evicted, refused := r.conns.counts()
	gauge(descConns, conns)
	counter(descEvicted, evicted)
	counter(descRefused, refused)
}

// dropped sums what the kernel dropped at the sockets, where it says so.
func dropped(sockets []*socket) (sum uint64) {
	for _, s := range sockets {
		if conn, ok := s.conn.(syscall.Conn); ok {
			n, _ := udpbatch.Drops(conn)
			sum += uint64(n)
		}
	}
	return sum
}
