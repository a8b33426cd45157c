package fastpath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// machineT is behind a TAP or TUN device, whose packets the test makes itself.
var machineT = netip.MustParseAddr("fdaa:0:a:77::2")

// device is a TAP or TUN device.
type device struct {
	*os.File
	mac   [6]byte // the host's; zero: a TUN device
	owner [6]byte // that the host knows machineT by
}

// open makes a device in the host's network and routes machineT there.
func (s *scene) open(name string, mode uint16) *device {
	s.t.Helper()
	var fd int
	var err error
	s.Do(func() { // a device is made in the network in which the file was opened
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(name); err == nil {
			req.SetUint16(mode | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
	})
	if err != nil {
		lab.Skip(s.t, "no TUN device: "+err.Error())
	}
	d := &device{File: os.NewFile(uintptr(fd), name), owner: [6]byte{2, 0, 0, 0, 0, 7}}
	s.t.Cleanup(func() { d.Close() })
	s.IP(s.t, "link set "+name+" up", fmt.Sprintf("route add %s/128 dev %s", machineT, name))
	if mode == unix.IFF_TAP {
		s.IP(s.t, fmt.Sprintf("neigh add %s lladdr 02:00:00:00:00:07 dev %s nud permanent", machineT, name))
		var dev *net.Interface
		s.Do(func() { dev, err = net.InterfaceByName(name) })
		if err != nil {
			s.t.Fatal(err)
		}
		d.mac = [6]byte(dev.HardwareAddr)
	}
	return d
}

// packet is a question as it goes over the wire.
type packet struct {
	from, to netip.Addr
	msg      []byte
	srcMAC   [6]byte
	dstMAC   [6]byte

	hopByHop bool // has an extension header
	tail     int  // bytes behind the IP packet
	longer   int  // that the UDP header says too many
	sum      func(uint16) uint16
}

const port = 40000

// checksum is the UDP checksum over IPv6 of a datagram whose checksum field is zero (RFC 8200, section 8.1).
func checksum(from, to netip.Addr, udp []byte) uint16 {
	src, dst := from.As16(), to.As16()
	b := append(append(append([]byte(nil), src[:]...), dst[:]...), 0, 0, byte(len(udp)>>8), byte(len(udp)), 0, 0, 0, 17)
	b = append(b, udp...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var s uint32
	for ; len(b) > 0; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// bytes returns the packet, with an Ethernet header if the device has such.
func (p packet) bytes(d *device) []byte {
	udp := make([]byte, 8, 8+len(p.msg))
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], server.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(p.msg)+p.longer))
	udp = append(udp, p.msg...)
	sum := checksum(p.from, p.to, udp)
	if p.sum != nil {
		sum = p.sum(sum)
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	next := byte(17)
	if p.hopByHop {
		udp = append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp...) // PadN
		next = 0
	}
	ip := []byte{0x60, 0, 0, 0, byte(len(udp) >> 8), byte(len(udp)), next, 64}
	src, dst := p.from.As16(), p.to.As16()
	out := append(append(append(ip, src[:]...), dst[:]...), udp...)
	out = append(out, make([]byte, p.tail)...)
	if d.mac == ([6]byte{}) {
		return out
	}
	return append(append(append(append([]byte(nil), p.dstMAC[:]...), p.srcMAC[:]...), 0x86, 0xdd), out...)
}

// response waits for a response to machineT and returns it, checked down to its
// checksum, without its headers; nil: none came.
func (d *device) response(t *testing.T, patience time.Duration, to packet) []byte {
	t.Helper()
	buf := make([]byte, 4096)
	for end := time.Now().Add(patience); ; {
		if err := d.SetReadDeadline(end); err != nil {
			t.Fatal(err)
		}
		n, err := d.Read(buf)
		if err != nil {
			return nil
		}
		b := buf[:n]
		if d.mac != ([6]byte{}) {
			if len(b) < 14 || b[12] != 0x86 || b[13] != 0xdd {
				continue
			}
			if !bytes.Equal(b[:6], d.owner[:]) || !bytes.Equal(b[6:12], d.mac[:]) {
				if len(b) > 54 && b[20] == 17 {
					t.Errorf("a response goes from %x to %x", b[6:12], b[:6])
				}
				continue
			}
			b = b[14:]
		}
		if len(b) < 48 || b[6] != 17 { // neighbour discovery and the like
			continue
		}
		udp := bytes.Clone(b[40:])
		got := binary.BigEndian.Uint16(udp[6:])
		udp[6], udp[7] = 0, 0
		src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		want := checksum(src, dst, udp)
		if want == 0 { // which would mean that there is none
			want = 0xffff
		}
		if got != want || int(binary.BigEndian.Uint16(b[4:])) != len(udp) || int(binary.BigEndian.Uint16(udp[4:])) != len(udp) ||
			src != to.to || dst != to.from || binary.BigEndian.Uint16(udp) != server.Port() || binary.BigEndian.Uint16(udp[2:]) != port || b[7] != 64 || b[0]>>4 != 6 {
			t.Errorf("a bad packet (checksum %x, want %x): %x", got, want, b)
		}
		return udp[8:]
	}
}

// exchange sends a packet and returns what comes back, and which of the programs' counters moved.
func (s *scene) exchange(d *device, p packet, patience time.Duration) (resp []byte, result string) {
	s.t.Helper()
	before := s.counts()
	if _, err := d.Write(p.bytes(d)); err != nil {
		s.t.Fatal(err)
	}
	resp = d.response(s.t, patience, p)
	return resp, s.since(before)
}

// Packets whose every byte the test decides, at a device with link-layer addresses and at
// one without: who gets which answer, and from whom.
func TestPackets(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]uint16{"to-t": unix.IFF_TAP, "to-u": unix.IFF_TUN} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			d := s.open(name, mode)
			s.devices(3)
			// The socket's address is the host's, and so is another, that it does not answer at.
			s.IP(t, "addr add fdaa:0:a::9/128 dev lo nodad")
			home := query("home.internal.", dns.TypeAAAA, edns(1232))
			for _, req := range [][]byte{home, query("m0.vm.home.internal.", dns.TypeAAAA, nil)} {
				s.warm(s.a, req)
			}
			good := packet{from: machineT, to: server.Addr(), srcMAC: d.owner, dstMAC: d.mac, msg: home}
			with := func(change func(*packet)) packet { p := good; change(&p); return p }
			ethernet := mode == unix.IFF_TAP
			tests := []struct {
				name     string
				p        packet
				result   string
				answered bool
			}{
				{"as_usual", good, "hit", true},
				{"odd_length", with(func(p *packet) { p.msg = query("m0.vm.home.internal.", dns.TypeAAAA, nil) }), "hit", true},
				{"wrong_checksum", with(func(p *packet) { p.sum = func(s uint16) uint16 { return s ^ 0x1111 } }), "shape", false},
				{"no_checksum", with(func(p *packet) { p.sum = func(uint16) uint16 { return 0 } }), "shape", false},
				{"extension_header", with(func(p *packet) { p.hopByHop = true }), "", true},
				{"bytes_behind_the_packet", with(func(p *packet) { p.tail = 3 }), "shape", true},
				{"UDP_length_too_large", with(func(p *packet) { p.longer = 3 }), "shape", false},
				{"another_address_of_the_host", with(func(p *packet) { p.to = netip.MustParseAddr("fdaa:0:a::9") }), "", false},
				{"source_of_another_device", with(func(p *packet) { p.from = machineA }), "route", false},
				{"source_of_another_network", with(func(p *packet) { p.from = machineB }), "route", false},
				{"source_without_a_route", with(func(p *packet) { p.from = netip.MustParseAddr("fdaa:0:c::1") }), "miss", false},
				{"host's_own_network", with(func(p *packet) { p.from = netip.MustParseAddr("fdaa::1:2") }), "", false},
			}
			if ethernet {
				tests = append(tests, []struct {
					name     string
					p        packet
					result   string
					answered bool
				}{
					// The neighbour that has the address gets the answer, by the socket.
					{"source_of_another_neighbour", with(func(p *packet) { p.srcMAC = [6]byte{2, 0, 0, 0, 0, 8} }), "route", true},
					{"for_another_neighbour", with(func(p *packet) { p.dstMAC = [6]byte{2, 0, 0, 0, 0, 8} }), "", false},
				}...)
			}
			s.warm(s.b, home)
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					s.t = t
					// A source that lies is answered where the address belongs: by the socket.
					var victim *net.UDPConn
					for _, owner := range []*lab.Tenant{s.a, s.b} {
						if tt.p.from == owner.Addr {
							var err error
							if victim, err = owner.ListenUDP(netip.AddrPortFrom(owner.Addr, port).String()); err != nil {
								t.Fatal(err)
							}
							defer victim.Close()
						}
					}
					patience := soon
					if !tt.answered {
						patience = 200 * time.Millisecond
					}
					resp, result := s.exchange(d, tt.p, patience)
					if (resp != nil) != tt.answered || result != tt.result {
						t.Errorf("answered %t by %q, want %t by %q: %x", resp != nil, result, tt.answered, tt.result, resp)
					}
					if victim != nil {
						buf := make([]byte, 2000)
						victim.SetReadDeadline(time.Now().Add(soon))
						if n, from, err := victim.ReadFromUDPAddrPort(buf); err != nil || from != server || n < 12 {
							t.Errorf("the address's owner gets nothing: %v", err)
						}
					}
					var m dns.Msg
					if resp != nil && (m.Unpack(resp) != nil || len(m.Answer) == 0 || m.Id != 0x1234) {
						t.Errorf("answer %x", resp)
					}
				})
			}
			s.t = t
			s.checksums(d, good)
		})
	}
}

// checksums asks questions of all lengths and ids, in all forms: whatever the kernel answers has
// the right checksum.
func (s *scene) checksums(d *device, good packet) {
	s.t.Helper()
	hits := 0
	for i, k := range kinds {
		if !k.kernel {
			continue
		}
		s.warm(s.a, query(k.name, k.typ, edns(1232)))
		for n, form := range forms {
			if !form.kernel {
				continue
			}
			p := good
			p.msg = query(k.name, k.typ, form.change)
			if form.patch != nil {
				p.msg = form.patch(p.msg)
			}
			binary.BigEndian.PutUint16(p.msg, uint16(0xf1e7*(i+1)*(n+1)))
			resp, result := s.exchange(d, p, soon)
			if result == "hit" {
				hits++
			}
			if resp == nil || !bytes.Equal(resp[:2], p.msg[:2]) {
				s.t.Errorf("%s: response %x to %x", form.name, resp, p.msg)
			}
		}
	}
	if hits < 100 {
		s.t.Errorf("%d answers came from the kernel", hits)
	}
	s.rareChecksums(d, good)
}

// withID returns a message with the first id for which a condition holds.
func withID(t *testing.T, msg []byte, holds func([]byte) bool) []byte {
	t.Helper()
	msg = bytes.Clone(msg)
	for id := range 1 << 16 {
		if binary.BigEndian.PutUint16(msg, uint16(id)); holds(msg) {
			return msg
		}
	}
	t.Fatal("no id will do")
	return nil
}

// rareChecksums asks with the checksums that one question in 65,536 has.
func (s *scene) rareChecksums(d *device, good packet) {
	s.t.Helper()
	req := query("single.internal.", dns.TypeAAAA, edns(1232))
	udp := func(from, to uint16, msg []byte) []byte {
		b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
		return append(binary.BigEndian.AppendUint16(b, uint16(8+len(msg))), append([]byte{0, 0}, msg...)...)
	}
	sum := func(msg []byte) uint16 { return checksum(good.from, good.to, udp(port, server.Port(), msg)) }
	// What stands in place of a checksum that a device is to complete.
	partial := ^checksum(good.from, good.to, []byte{0, byte(8 + len(req))}) // the length once more, as a datagram of two bytes has it less
	partial = uint16((uint32(partial) + 0xffff - 2) % 0xffff)
	good.msg = req
	resp, _ := s.exchange(d, good, soon)
	for _, c := range []struct {
		name     string
		msg      []byte
		sum      func(uint16) uint16
		result   string
		answered bool
	}{
		{"a_checksum_of_either_kind", withID(s.t, req, func(m []byte) bool { return sum(m) == partial }), nil, "shape", true},
		{"all_ones", withID(s.t, req, func(m []byte) bool { return sum(m) == 0 }), func(uint16) uint16 { return 0xffff }, "hit", true},
		{"zero", withID(s.t, req, func(m []byte) bool { return sum(m) == 0 }), func(uint16) uint16 { return 0 }, "shape", false},
		{"all_ones_in_the_response", withID(s.t, req, func(m []byte) bool {
			return checksum(good.to, good.from, udp(server.Port(), port, append(bytes.Clone(m[:2]), resp[2:]...))) == 0
		}), nil, "hit", true},
	} {
		p := good
		p.msg, p.sum = c.msg, c.sum
		patience := soon
		if !c.answered {
			patience = 200 * time.Millisecond
		}
		if got, result := s.exchange(d, p, patience); (got != nil) != c.answered || result != c.result {
			s.t.Errorf("%s: answered %t by %q, want %t by %q", c.name, got != nil, result, c.answered, c.result)
		}
	}
}
