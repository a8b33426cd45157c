package test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// The clients, by the names that tables use: where each one asks from, and the
// address it asks.
var clients = map[string]struct{ from, to string }{
	"a":        {"fdaa:0:18:a7b:7d:f066:b83b:2", "fdaa::3"},      // machine 148e21dad76789 in iad
	"a-other":  {"fdaa:0:18:a7b:7d:f066:b83b:f00d", "fdaa::3"},   // another address of its /112
	"a-own":    {"fdaa:0:18:a7b:7d:f066:b83b:2", "fdaa:0:18::3"}, // asks its network's own address
	"a-cross":  {"fdaa:0:18:a7b:7d:f066:b83b:2", "fdaa:0:99::3"}, // asks the other network's address
	"a-peer":   {"fdaa:0:18:a7b:d6b:0:a:102", "fdaa:0:18::3"},    // my-peer in ord
	"a-laptop": {"fdaa:0:18:a7b:d6b:0:a:103", "fdaa:0:18::3"},    // laptop in fra
	"a-remote": {"fdaa:0:18:a7b:d6b:0:a:104", "fdaa:0:18::3"},    // remote, a peer without a region
	"a-lost":   {"fdaa:0:18:a7b:d6b:0:a:105", "fdaa:0:18::3"},    // nowhere, in a region without coordinates
	"a-anon":   {"fdaa:0:18:ffff:ffff::1", "fdaa::3"},            // nobody that the registry knows
	"b":        {"fdaa:0:99:a7b:1:1:1:2", "fdaa::3"},             // machine b1111111111111 in ewr
	"b-cross":  {"fdaa:0:99:a7b:1:1:1:2", "fdaa:0:18::3"},        // asks the other network's address
	"large":    {"fdaa:0:c0::1", "fdaa::3"},                      //
	"long":     {"fdaa:0:d0::1", "fdaa::3"},                      //
	"empty":    {"fdaa:0:e0::1", "fdaa::3"},                      // a network with nothing in it
	"loop":     {"::1", "::1"},                                   //
	"loop4":    {"127.0.0.1", "127.0.0.1"},                       //
	"loop4-9":  {"127.0.0.1", "127.0.0.9"},                       // any address of 127/8 is the server's
	"out":      {"2001:db8::1", "fdaa::3"},                       // never allowed
	"out4":     {"192.0.2.1", "192.0.2.3"},                       // never allowed
	"friend":   {"2001:db8:a::1", "fdaa::3"},                     // allowed where --allow says so
	"friend4":  {"203.0.113.7", "192.0.2.3"},                     // allowed where --allow says so
	"next-ula": {"fdab:0:18:a7b:7d:f066:b83b:2", "fdaa::3"},      // just outside fdaa::/16
}

// homes are the networks of clients that tables expect addresses for.
func home(client string) string {
	addr := netip.MustParseAddr(clients[client].from)
	if !netip.MustParsePrefix("fdaa::/16").Contains(addr) {
		return netA // where such a client is served at all, --network says A
	}
	return networkOf(addr.String())
}

// newLab opens a lab with every address that a client or the server has.
func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	var addrs []string
	for _, c := range clients {
		for _, a := range []string{c.from, c.to} {
			addr := netip.MustParseAddr(a).Unmap()
			if !addr.IsLoopback() && !slices.Contains(addrs, addr.String()) {
				addrs = append(addrs, addr.String())
			}
		}
	}
	return lab.Open(t, addrs...)
}

// world is a running dnsd with the fixture.
type world struct {
	*lab.Server
	book map[string]string
	path string // of the registry file

	ttl      uint32 // that answers must have, seconds
	maxUDP   int    // bytes, of a response
	upstream bool   // whether there is one: RA
}

// newWorld starts dnsd on the fixture, on a wildcard listener, with more flags.
func newWorld(t testing.TB, args ...string) *world {
	t.Helper()
	path := fixture(t)
	l := newLab(t)
	w := &world{book: addressBook(t, path), path: path, ttl: 5, maxUDP: 1232}
	base := []string{"--listen", "[::]:53", "--registry", "file:" + path}
	if !slices.Contains(args, "--upstream") {
		base = append(base, "--upstream", "none")
	}
	w.Server = l.Serve(t, append(base, args...)...)
	return w
}

// client returns the client of that name.
func (w *world) client(name string) lab.Client { return clientOf(w.Lab, name) }

func clientOf(l *lab.Lab, name string) lab.Client {
	c, ok := clients[name]
	if !ok {
		panic("no client " + name)
	}
	return lab.Client{
		Lab: l, From: netip.MustParseAddr(c.from).Unmap(), To: netip.AddrPortFrom(netip.MustParseAddr(c.to), 53),
	}
}

// question returns a request, with EDNS (of 1232 bytes) or without.
func question(name string, qtype uint16, edns bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	if edns {
		m.SetEdns0(1232, false)
	}
	return m
}

// ask sends a request and checks what holds of every response.
func (w *world) ask(t testing.TB, client, proto string, req *dns.Msg) *dns.Msg {
	t.Helper()
	raw, err := req.Pack()
	if err != nil {
		t.Fatalf("packing %v: %v", req.Question, err)
	}
	resp, err := w.client(client).Exchange(proto, raw)
	if err != nil {
		t.Fatal(err)
	}
	return w.lawful(t, proto, raw, resp)
}

// ours reports whether dnsd has authority for a name.
func ours(name string) bool {
	for _, zone := range []string{"internal.", "flycast.", "d.f.ip6.arpa."} {
		if dns.IsSubDomain(zone, strings.ToLower(name)) {
			return true
		}
	}
	return false
}

// lawful unpacks a response to a well-formed request and checks what
// docs/names.md says of every one of them.
func (w *world) lawful(t testing.TB, proto string, rawReq, rawResp []byte) *dns.Msg {
	t.Helper()
	req, resp := new(dns.Msg), new(dns.Msg)
	if err := req.Unpack(rawReq); err != nil {
		t.Fatalf("unpacking the request: %v", err)
	}
	if err := resp.Unpack(rawResp); err != nil {
		t.Fatalf("unpacking the response: %v\n%x", err, rawResp)
	}
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s over %s: %s\n%v", req.Question[0].String(), proto, fmt.Sprintf(format, args...), resp)
	}
	q := req.Question[0]
	if resp.Id != req.Id || !resp.Response || resp.Opcode != req.Opcode {
		wrong("id, QR or opcode is not the request's")
	}
	end := 12 + questionLen(rawReq)
	if len(rawResp) < end || !bytes.Equal(rawReq[12:end], rawResp[12:end]) {
		wrong("the question's bytes are not echoed")
	}
	query := req.Opcode == dns.OpcodeQuery
	if resp.RecursionDesired != (query && req.RecursionDesired) {
		wrong("RD is not the request's")
	}
	if resp.CheckingDisabled && (!query || !req.CheckingDisabled || ours(q.Name)) {
		wrong("CD is set")
	}
	if resp.Zero || rawResp[3]&0x40 != 0 {
		wrong("the reserved bit is set")
	}
	w.checkEdns(req, resp, wrong)

	positive := resp.Rcode == dns.RcodeSuccess || resp.Rcode == dns.RcodeNameError
	if ours(q.Name) && q.Qclass == dns.ClassINET {
		if resp.AuthenticatedData {
			wrong("AD is set in our zones")
		}
		if positive != resp.Authoritative {
			wrong("AA is %v", resp.Authoritative)
		}
		if positive && len(resp.Answer) == 0 && !resp.Truncated {
			w.checkSOA(resp, wrong)
		}
	}
	if resp.RecursionAvailable != w.upstream && positive {
		wrong("RA is %v, want %v", resp.RecursionAvailable, w.upstream)
	}
	if !positive && len(resp.Answer)+len(resp.Ns) > 0 {
		wrong("records with %s", dns.RcodeToString[resp.Rcode])
	}
	for _, rr := range resp.Answer {
		h := rr.Header()
		if h.Name != q.Name {
			wrong("owner name %s does not take the question's case", h.Name)
		}
		if h.Rrtype == dns.TypeCNAME {
			wrong("a CNAME")
		}
		if ours(q.Name) && (h.Ttl != w.ttl || h.Class != dns.ClassINET) {
			wrong("TTL %d, class %d", h.Ttl, h.Class)
		}
	}
	if limit := w.limit(proto, req); len(rawResp) > limit {
		wrong("%d bytes, more than %d", len(rawResp), limit)
	}
	if resp.Truncated && proto == "tcp" && len(rawResp) < 60000 {
		wrong("TC over TCP at %d bytes", len(rawResp))
	}
	return resp
}

// limit is how large a response may be.
func (w *world) limit(proto string, req *dns.Msg) int {
	opt := req.IsEdns0()
	switch {
	case proto == "tcp":
		return 65535
	case opt == nil:
		return 512
	}
	return min(max(int(opt.UDPSize()), 512), w.maxUDP)
}

func (w *world) checkEdns(req, resp *dns.Msg, wrong func(string, ...any)) {
	var opts []*dns.OPT
	for _, rr := range resp.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			wrong("a record beside OPT in additional")
			continue
		}
		opts = append(opts, opt)
	}
	asked := req.IsEdns0()
	if asked == nil && len(opts) != 0 || asked != nil && len(opts) != 1 {
		wrong("%d OPT in the response", len(opts))
		return
	}
	if asked == nil {
		return
	}
	if opts[0].Version() != 0 {
		wrong("EDNS version %d", opts[0].Version())
	}
	nsid := slices.ContainsFunc(asked.Option, func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0NSID })
	for _, o := range opts[0].Option {
		if o.Option() != dns.EDNS0EDE && !(nsid && o.Option() == dns.EDNS0NSID) {
			wrong("option %d in the response", o.Option())
		}
	}
}

// checkSOA checks that a negative answer can be cached for as long as it should.
func (w *world) checkSOA(resp *dns.Msg, wrong func(string, ...any)) {
	if len(resp.Ns) != 1 {
		wrong("%d records in authority, want the SOA", len(resp.Ns))
		return
	}
	soa, ok := resp.Ns[0].(*dns.SOA)
	if !ok {
		wrong("no SOA in authority")
		return
	}
	if soa.Minttl != w.ttl || soa.Hdr.Ttl != w.ttl {
		wrong("SOA with TTL %d and minimum %d, want %d", soa.Hdr.Ttl, soa.Minttl, w.ttl)
	}
	if !dns.IsSubDomain(strings.ToLower(soa.Hdr.Name), strings.ToLower(resp.Question[0].Name)) {
		wrong("SOA of %s", soa.Hdr.Name)
	}
}

// questionLen is how many bytes the first question takes, uncompressed.
func questionLen(msg []byte) int {
	off := 12
	for msg[off] != 0 {
		off += int(msg[off]) + 1
	}
	return off + 1 + 4 - 12
}

// texts returns what the extended errors of a response say.
func texts(resp *dns.Msg) (all []string) {
	for _, e := range edes(resp) {
		all = append(all, e.ExtraText)
	}
	return all
}

// edes returns the extended errors of a response.
func edes(resp *dns.Msg) (all []*dns.EDNS0_EDE) {
	if opt := resp.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				all = append(all, e)
			}
		}
	}
	return all
}

// hasEDE reports whether a response carries the code.
func hasEDE(resp *dns.Msg, code uint16) bool {
	return slices.ContainsFunc(edes(resp), func(e *dns.EDNS0_EDE) bool { return e.InfoCode == code })
}
