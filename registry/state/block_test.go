package state

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
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

// A block ends where it is large enough to be one, whatever it is of.
func TestTheSizeOfBlocks(t *testing.T) {
	r := registry.New()
	var items []registry.Item
	for i := range 4000 {
		n, addr := registry.Network(i), registry.Network(i).Prefix().Addr().Next()
		name := fmt.Sprintf("a-name-of-its-own-%d", i)
		items = append(items, registry.Put(&registry.App{Name: name, Network: n}), registry.Put(&registry.Peer{Name: name, Network: n, Addr: addr}),
			registry.Put(&registry.Address{App: name, Network: n, Addr: addr}), registry.Put(registrytest.Machine(t, name)))
	}
	r.Apply(items)
	d := New(t.TempDir(), source)
	defer d.Close()
	if err := d.Save(r.Snapshot(), now); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(d.path, Name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := int64(len(firstLine) + len("2\n"))
	var sizes []int // of objects blocks
	if err := scan(io.NewSectionReader(f, line, d.out.size-line), line, func(p place, payload []byte) error {
		if payload[0] == kindObjects {
			sizes = append(sizes, len(payload))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	const one = 100 // bytes of an object, at most
	for i, n := range sizes {
		if last := i == len(sizes)-1; n < blockSize && !last || n > blockSize+one {
			t.Errorf("block %d of %d has %d bytes, want %d to %d", i, len(sizes), n, blockSize, blockSize+one)
		}
	}
	if len(sizes) < 8 {
		t.Errorf("%d blocks are too few to tell", len(sizes))
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
