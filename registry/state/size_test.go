package state

import (
	"os"
	"strings"
	"testing"

	"dnsd/registry/registrytest"
)

// A state larger than what is read is not written, and leaves nothing behind.
func TestTheSizeIsBounded(t *testing.T) {
	w := newWorld(t, 26)
	w.reg.Apply(registrytest.Many(2_000))
	d := New(t.TempDir(), source)
	w.save(d)
	size := d.out.size
	d.Close()
	for most, fits := range map[int64]bool{100: false, size - 1: false, size: true} {
		d := New(t.TempDir(), source)
		d.most = most
		err := d.Save(w.reg.Snapshot(), now)
		left, _ := os.ReadDir(d.path)
		if (err == nil) != fits || !fits && !strings.Contains(err.Error(), "larger than") || (len(left) == 1) != fits {
			t.Errorf("a bound of %d: %v, left is %v", most, err, left)
		}
		d.Close()
	}
}

// A file that grows near to what can be read is written anew, whatever it began with.
func TestTheSizeIsNotReachedByChanges(t *testing.T) {
	w := newWorld(t, 32)
	w.reg.Apply(registrytest.Many(2_000))
	d := New(t.TempDir(), source)
	defer d.Close()
	w.save(d)
	d.most = d.out.size + 10_000
	anew := 0
	for range 200 {
		w.change(20)
		before := d.out.size
		is := w.saveAt(d, now)
		if is != (before > d.most-d.most/8) {
			t.Fatalf("with %d bytes of %d: written anew: %t", before, d.most, is)
		}
		anew += count(is)
	}
	if anew == 0 || d.out.size > d.most {
		t.Errorf("written anew %d times; has %d bytes of %d", anew, d.out.size, d.most)
	}
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
