package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

// A network has 32 bits.
func TestNumbersOfNetworks(t *testing.T) {
	for n, ok := range map[uint64]bool{0: true, 1<<32 - 1: true, 1 << 32: false, 1<<33 - 1: false} {
		d := decoder{data: binary.AppendUvarint(nil, n)}
		if got := d.network(); (d.err == nil) != ok || ok && uint64(got) != n {
			t.Errorf("%x is read as %x, %v", n, uint64(got), d.err)
		}
	}
}
