package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A file with right checksums that no dnsd has written takes memory in proportion to
// its length at most, and cannot be used.
func TestWhatAHostileFileCosts(t *testing.T) {
	block := func(lists []byte, n uint64, zero ...byte) func(w *blockWriter) error {
		return func(w *blockWriter) error {
			body := binary.AppendUvarint(bytes.Clone(lists), n)
			body = append(body, bytes.Repeat(zero, (maxBlock-10)/len(zero))...)
			return w.block(kindObjects, body[:maxBlock-1])
		}
	}
	many := func(kind byte, body ...byte) func(w *blockWriter) error {
		return func(w *blockWriter) error {
			for range 200_000 {
				if err := w.block(kind, body); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		write func(w *blockWriter) error
		most  int // bytes that may be allocated for each of the file's, buffers apart
		ok    bool
	}{
		"strings":              {block(nil, 1_000_000, 0), 16, false},
		"metadata":             {block([]byte{0}, 1_000_000, 0), 0, false},
		"metadata that fit":    {block([]byte{0}, 300_000, 0), 8, false},
		"pairs":                {block([]byte{1, 0, 1}, 1_000_000, 0), 0, false},
		"pairs that fit":       {block([]byte{1, 0, 1}, 500_000, 0), 16, false},
		"fleets":               {block([]byte{0, 0}, 1_000_000, 0), 0, false},
		"fleets that fail":     {block([]byte{0, 0}, 250_000, 0xff), 4, false},
		"machines":             {block([]byte{0, 0, 1, 0, 0, 0}, 500_000, 0xff), 4, false},
		"machines, more":       {block([]byte{0, 0, 1, 0, 0, 0}, 1_000_000, 0xff), 0, false},
		"others":               {block([]byte{0, 0, 0}, 1_000_000, 0), 0, false},
		"others that fail":     {block([]byte{0, 0, 0}, 250_000, 0xff), 28, false},
		"unknown blocks":       {many('x'), 0, false},
		"empty blocks":         {many(kindObjects), 0, false},
		"blocks of no objects": {many(kindObjects, 0, 0, 0, 0), 0, false},
		"more beginnings":      {many(kindBegin, 0), 0, false},
		"ends":                 {many(kindEnd, 0), 0, true},
	} {
		var file bytes.Buffer
		w := blockWriter{w: &file}
		if err := errors.Join(w.begin(source, 1), c.write(&w), w.block(kindEnd, []byte{0})); err != nil {
			t.Fatal(name, err)
		}
		path := filepath.Join(t.TempDir(), Name)
		if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(path)
		runtime.ReadMemStats(&after)
		if c.ok && err != nil || !c.ok && !errors.Is(err, errPayload) {
			t.Errorf("%s: %v", name, err)
		}
		const fixed = 4 << 20 // what any file takes: buffers
		got := int64(after.TotalAlloc - before.TotalAlloc)
		if got > fixed+int64(c.most*file.Len()) {
			t.Errorf("%s: %d bytes are allocated for %d", name, got, file.Len())
		}
	}
}

// What an objects block may not hold makes it one that cannot be read, to its last byte.
func TestWhatAnObjectsBlockMayHold(t *testing.T) {
	list := func(elements ...string) string {
		return string(binary.AppendUvarint(nil, uint64(len(elements)))) + strings.Join(elements, "")
	}
	text := func(s string) string { return string(appendString(nil, s)) }
	const none = "\x00"
	words := list(text("a"), text("b"), text("started"))
	metadata := list(list("\x00\x01", "\x01\x00")) // of one machine: a=b, b=a
	fleet := func(entries ...string) string { return "\x18" + text("web") + "\x01" + list(entries...) }
	machine := func(flags byte, id, rest string) string { return string(rune(flags)) + text(id) + rest }
	const rest = "\x02\x00\x01" // state, region, metadata
	address := strings.Repeat("\x07", 10)
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"nothing at all", "", false},
		{"a list too few", none + none + none, false},
		{"nothing", none + none + none + none, true},
		{"more behind the end", none + none + none + none + none, false},
		{"a machine", words + metadata + list(fleet(machine(0, "m", rest))) + none, true},
		{"with all that it may have", words + metadata + list(fleet(machine(flagSkip|flagAddr|flagSpelling, "m", "\x00"+rest+address))) + none, true},
		{"without metadata", words + none + list(fleet(machine(0, "m", "\x02\x00\x00"))) + none, true},
		{"one that is gone", none + none + list(fleet(machine(flagGone, "m", ""))) + none, true},
		{"gone and hidden", none + none + list(fleet(machine(flagGone|flagSkip, "m", ""))) + none, false},
		{"gone and hidden, with the rest", words + metadata + list(fleet(machine(flagGone|flagSkip, "m", rest))) + none, false},
		{"a peer among machines", words + metadata + list(fleet(machine(flagPeer, "m", rest))) + none, false},
		{"a flag that nobody knows", words + metadata + list(fleet(machine(0x20, "m", rest))) + none, false},
		{"half an address", words + metadata + list(fleet(machine(flagAddr, "m", rest+address[5:]))), false},
		{"an id that is none", words + metadata + list(fleet(machine(0, "a.b", rest))) + none, false},
		{"a state that nobody knows of", words + metadata + list(fleet(machine(0, "m", "\x03\x00\x01"))) + none, false},
		{"metadata that are not there", words + metadata + list(fleet(machine(0, "m", "\x02\x00\x02"))) + none, false},
		{"metadata without pairs", words + list(none) + none + none, false},
		{"metadata out of order", words + list(list("\x01\x00", "\x00\x01")) + none + none, false},
		{"a key that is not there", words + list(list("\x03\x00")) + none + none, false},
		{"a value that is not there", words + list(list("\x00\x03")) + none + none, false},
		{"a peer", none + none + none + list("\x10\x18"+text("p")+text("fdaa:0:18::1")+text("iad")), true},
		{"without an address", none + none + none + list("\x10\x18"+text("p")+none+none), false},
		{"gone", none + none + none + list("\x11\x18"+text("p")+text("fdaa:0:18::1")), true},
		{"a flycast address", none + none + none + list("\x00\x18"+text("web")+text("fdaa:0:18::1")+none), true},
		{"of another network", none + none + none + list("\x00\x18"+text("web")+text("fdaa:0:19::1")+none), false},
		{"as many pairs as there is room for", words + list(list("\x00\x01", "\x01\x00", "\x02\x00")) + none + none, true},
		{"as many metadata", words + list(slices.Repeat([]string{list("\x00\x01")}, 9)...) + none + none, true},
		{"as many entries", none + none + list(fleet(slices.Repeat([]string{"\x01\x00"}, 9)...)) + none, true},
		{"as many fleets", none + none + list(slices.Repeat([]string{"\x18\x00\x00\x00"}, 9)...) + none, true},
		{"as many others", none + none + none + list(slices.Repeat([]string{"\x01\x18\x00\x00"}, 9)...), true},
		{"a number without an end", "\x80", false},
		{"a string without an end", "\x01\x02a", false},
	} {
		d := decoder{data: []byte(c.body)}
		if parts, others, err := d.objects(); (err == nil) != c.ok {
			t.Errorf("%s: %d fleets, %d others, %v", c.name, len(parts), len(others), err)
		}
	}
}

// A file begins once, and holds what batches with an end say.
func TestTheOrderOfBlocks(t *testing.T) {
	objects := []byte("\x00\x00\x01\x18\x03web\x01\x00\x00") // an app
	bodies := map[rune][]byte{kindBegin: append(appendString(nil, source), make([]byte, 8)...), kindObjects: objects, kindEnd: {1}, 'e': {0x80}, 'x': {0}}
	for kinds, want := range map[string]struct {
		batches, objects int // -1: it cannot be used
		why              error
	}{
		"":       {-1, 0, errShort},
		"B":      {-1, 0, errShort},
		"BO":     {-1, 0, errShort},
		"E":      {-1, 0, errPayload},
		"OE":     {-1, 0, errPayload},
		"OBE":    {-1, 0, errPayload},
		"BE":     {0, 0, nil},
		"BOE":    {0, 1, nil},
		"BEOE":   {1, 1, nil},
		"BEOEE":  {2, 1, nil},
		"BEO":    {0, 0, nil},
		"BEOBE":  {0, 0, errPayload},
		"BBE":    {-1, 0, errPayload},
		"Be":     {-1, 0, errPayload},
		"BEOe":   {0, 0, errPayload},
		"BEOEx":  {1, 1, errPayload},
		"BEOExE": {1, 1, errPayload},
	} {
		var file bytes.Buffer
		fmt.Fprintf(&file, "%s%d\n", firstLine, version)
		w := blockWriter{w: &file}
		for _, kind := range kinds {
			as := byte(kind)
			if kind == 'e' {
				as = kindEnd
			}
			if err := w.block(as, bodies[kind]); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), Name)
		if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path)
		if want.batches < 0 {
			if !errors.Is(err, want.why) {
				t.Errorf("%s: %v, want %v", kinds, err, want.why)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", kinds, err)
			continue
		}
		if _, batches := c.Appended(); batches != want.batches || c.Objects() != want.objects || c.Why != want.why {
			t.Errorf("%s: %d objects in %d batches behind the first, the rest is not used: %v; want %+v", kinds, c.Objects(), batches, c.Why, want)
		}
	}
}

// A network has 32 bits.
func TestNumbersOfNetworks(t *testing.T) {
	for n, ok := range map[uint64]bool{0: true, 1<<32 - 1: true, 1 << 32: false, 1<<33 - 1: false} {
		d := decoder{data: binary.AppendUvarint(nil, n)}
		if got := d.network(); (d.err == nil) != ok || ok && uint64(got) != n {
			t.Errorf("%x is read as %x, %v", n, uint64(got), d.err)
		}
	}
}
