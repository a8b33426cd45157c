package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// A large fleet, and a machine with all that it may have, take several blocks.
func TestLargeFleets(t *testing.T) {
	w := newWorld(t, 9)
	w.reg.Apply(registrytest.Many(100))
	large := map[string]string{}
	for i := range 64 {
		large[fmt.Sprint("k", i)] = strings.Repeat(fmt.Sprint(i%10), 1000)
	}
	var items []registry.Item
	for i := range 5000 {
		items = append(items, registry.Put(registrytest.Machine(t, fmt.Sprintf("m%05d", i), func(s *registry.MachineSpec) {
			s.Metadata = map[string]string{"n": fmt.Sprint(i)}
			if i%100 == 0 {
				s.Metadata = maps.Clone(large)
				s.Metadata["n"] = fmt.Sprint(i)
			}
		})))
	}
	w.reg.Apply(items)
	dir := t.TempDir()
	d := New(dir, source)
	defer d.Close()
	w.save(d)
	for _, rest := range []int{5000, 4000, 0} { // as it was, without many machines, and without any
		for i := rest; i < 5000; i++ {
			items[i] = registry.Delete(registry.Key{Kind: registry.KindMachine, Network: 24, Name: "web", ID: fmt.Sprintf("m%05d", i)})
		}
		w.reg.Apply(items[rest:])
		want := w.save(d)
		if _, got, errs := load(t, dir); !maps.Equal(got, want) || len(errs) > 0 || len(got) != rest+100 {
			t.Fatalf("%d objects are loaded of %d, %v", len(got), len(want), errs)
		}
	}
}

// A block ends where it is large enough to be one, whatever makes it large.
func TestTheSizeOfBlocks(t *testing.T) {
	name := func(i int) string { return fmt.Sprintf("a-name-of-its-own-%d", i) }
	machine := func(i int, metadata map[string]string) *registry.Machine {
		return registrytest.Machine(t, name(i), func(s *registry.MachineSpec) { s.Metadata = metadata })
	}
	fleet := func(machines int, metadata func(i int) map[string]string) func(e *encoder) {
		return func(e *encoder) {
			c := registry.FleetChange{Network: 24, Name: "web"}
			for i := range machines {
				c.Put = append(c.Put, machine(i, metadata(i)))
			}
			e.fleet(c)
		}
	}
	for what, c := range map[string]struct {
		objects func(e *encoder)
		one     int // bytes that an object takes at most
		puts    int
		gone    int
		others  int
	}{
		"apps": {func(e *encoder) {
			for i := range 6000 {
				e.fleet(registry.FleetChange{Network: registry.Network(i), Name: name(i), Registered: true})
			}
		}, 100, 0, 0, 0},
		"others": {func(e *encoder) {
			for i := range 3000 {
				n := registry.Network(i)
				e.other(registry.Put(&registry.Peer{Name: name(i), Network: n, Addr: n.Prefix().Addr().Next()}))
				e.other(registry.Put(&registry.Address{App: name(i), Network: n, Addr: n.Prefix().Addr().Next()}))
			}
		}, 100, 0, 0, 6000},
		"machines": {fleet(6000, func(int) map[string]string { return nil }), 100, 6000, 0, 0},
		"machines that are gone": {func(e *encoder) {
			c := registry.FleetChange{Network: 24, Name: "web"}
			for i := range 8000 {
				c.Gone = append(c.Gone, name(i))
			}
			e.fleet(c)
		}, 100, 0, 8000, 0},
		"strings": {fleet(3000, func(i int) map[string]string { return map[string]string{"k": name(i)} }), 150, 3000, 0, 0},
		"metadata": {fleet(4000, func(i int) map[string]string {
			pairs := map[string]string{}
			for bit := range 12 {
				pairs[fmt.Sprint("k", bit)] = fmt.Sprint(i >> bit & 1)
			}
			return pairs
		}), 150, 4000, 0, 0},
	} {
		var sizes []int
		puts, gone, others := 0, 0, 0
		e := newEncoder(func(body []byte) error {
			sizes = append(sizes, len(body))
			d := decoder{data: body}
			p, o, err := d.objects()
			for _, p := range p {
				puts, gone = puts+len(p.put), gone+len(p.gone)
			}
			others += len(o)
			return err
		})
		c.objects(e)
		if err := e.flush(); err != nil || puts != c.puts || gone != c.gone || others != c.others {
			t.Errorf("%s: %d machines, %d gone, %d others; %v", what, puts, gone, others, err)
		}
		for i, n := range sizes {
			if last := i == len(sizes)-1; n < blockSize && !last || n > blockSize+c.one {
				t.Errorf("%s: block %d of %d has %d bytes, want %d to %d", what, i, len(sizes), n, blockSize, blockSize+c.one)
			}
		}
		if len(sizes) < 3 {
			t.Errorf("%s: %d blocks are too few to tell", what, len(sizes))
		}
	}
}

// A fleet takes a block for each of its machines where each fills one, and what is gone
// stands behind them.
func TestAMachineFillsABlock(t *testing.T) {
	for machines := range 4 {
		for gone := range 4 {
			c := registry.FleetChange{Network: 24, Name: "web", Registered: true}
			for i := range machines {
				c.Put = append(c.Put, registrytest.Machine(t, fmt.Sprint("m", i), func(s *registry.MachineSpec) {
					s.Metadata = map[string]string{"k": strings.Repeat(fmt.Sprint(i), blockSize-1)}
				}))
			}
			for i := range gone {
				c.Gone = append(c.Gone, fmt.Sprint("x", i))
			}
			var all []*part
			e := newEncoder(func(body []byte) error {
				d := decoder{data: body}
				parts, _, err := d.objects()
				all = append(all, parts...)
				return err
			})
			e.fleet(c)
			err := e.flush()
			puts, goes := 0, 0
			for _, p := range all {
				puts, goes = puts+len(p.put), goes+len(p.gone)
			}
			if err != nil || puts != machines || goes != gone || len(all) < max(1, machines) {
				t.Errorf("%d machines and %d gone of %d and %d, in %d parts, %v", puts, goes, machines, gone, len(all), err)
			}
		}
	}
}

// The bytes of a file are those that other versions of dnsd read and write.
func TestTheFormat(t *testing.T) {
	var file bytes.Buffer
	w := blockWriter{w: &file}
	if err := w.begin(source, 0x0102030405060708); err != nil {
		t.Fatal(err)
	}
	e := newEncoder(func(body []byte) error { return w.block(kindObjects, body) })
	e.fleet(registry.FleetChange{Network: 24, Name: "web", Registered: true, Gone: []string{"m0"}, Put: []*registry.Machine{
		registrytest.Machine(t, "m1", func(s *registry.MachineSpec) {
			s.App, s.SkipRegistration, s.Metadata = "Web", true, map[string]string{"role": "db"}
			s.PrivateIP = "fdaa:0:18:a7b:7d:f066:b83b:2"
		}),
	}})
	e.other(registry.Put(&registry.Peer{Name: "p", Network: 24, Addr: netip.MustParseAddr("fdaa:0:18::1"), Region: "iad"}))
	e.other(registry.Delete(registry.Key{Kind: registry.KindAddress, Network: 24, Name: "web", ID: "fdaa:0:18::2"}))
	if err := errors.Join(e.flush(), w.block(kindEnd, binary.AppendUvarint(nil, 1_700_000_000))); err != nil {
		t.Fatal(err)
	}
	const want = "23646e73642d737461746520320a" + // the first line
		"110000000bb28e2142" + // a begin block: its length, checksum and kind
		"07746573743a2f2f0807060504030201" + // the source, and random bytes
		"65000000be406fcc4f" + // an objects block
		"050357656207737461727465640369616404726f6c65026462" + // strings
		"01010304" + // metadata: role=db
		"01180377656201" + // a fleet, which is registered
		"020e026d31000102010a7b007df066b83b0002" + // a machine with an address
		"01026d30" + // one that is gone
		"02101801700c666461613a303a31383a3a3103696164" + // a peer
		"0118037765620c666461613a303a31383a3a32" + // an address that is gone
		"060000001808e2e245" + // an end block
		"80e2cfaa06" // when it was right
	if got := hex.EncodeToString(file.Bytes()); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A block is written only if it can be read.
func TestTheLengthOfABlock(t *testing.T) {
	for _, c := range []struct {
		body int
		fits bool
	}{{maxBlock - 1, true}, {maxBlock, false}} {
		var file bytes.Buffer
		w := blockWriter{w: &file}
		before := w
		if err := w.block(kindObjects, make([]byte, c.body)); (err == nil) != c.fits {
			t.Errorf("%d bytes: %v", c.body, err)
		}
		if !c.fits && (file.Len() > 0 || w.size != before.size || w.sum != before.sum) {
			t.Errorf("%d bytes are written of a block that is too long", file.Len())
		}
		blocks := 0
		err := scan(&file, 0, func(place, []byte) error { blocks++; return nil })
		if c.fits && (blocks != 1 || err != nil) {
			t.Errorf("%d bytes: %d blocks are read, %v", c.body, blocks, err)
		}
	}
}
