package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/machinejson"
	"dnsd/registry/registrytest"
)

const source = "test://"

// now is when tests save: a whole second, which is what a file has.
var now = time.Unix(1_700_000_000, 0)

// world changes a registry at random: few names that meet, of all kinds and spellings.
type world struct {
	t   testing.TB
	rng *rand.Rand
	reg *registry.Registry
}

func newWorld(t testing.TB, seed uint64) *world {
	return &world{t, rand.New(rand.NewPCG(seed, 1)), registry.New()}
}

func (w *world) pick(from ...string) string { return from[w.rng.IntN(len(from))] }

func (w *world) object() registry.Object {
	network := w.pick("fdaa:0:18::/48", "fdaa:ffff:ffff::/48")
	addr := func() string { return strings.TrimSuffix(network, "/48") + fmt.Sprintf("%x:2", 1+w.rng.IntN(300)) }
	var o registry.Object
	var err error
	switch w.rng.IntN(8) {
	case 0:
		o, err = registry.NewApp(registry.AppSpec{Name: w.pick("web", "WEB", "db", "empty"), Network: network})
	case 1:
		o, err = registry.NewPeer(registry.PeerSpec{Name: w.pick("p", "P", "interactive-1"), PrivateIP: addr(), Region: w.pick("", "iad")})
	case 2:
		o, err = registry.NewAddress(registry.AddressSpec{App: w.pick("web", "Db"), Address: addr()})
	default:
		s := registry.MachineSpec{
			ID: w.pick("m", "M") + fmt.Sprint(w.rng.IntN(40)), App: w.pick("web", "Web", "db"), State: w.pick("started", "stopped", "destroyed", "odd"),
			Region: w.pick("", "iad", "ams"), Network: network, SkipRegistration: w.rng.IntN(9) == 0, Metadata: map[string]string{},
		}
		if w.rng.IntN(5) > 0 {
			s.PrivateIP = addr()
		}
		for range w.rng.IntN(4) {
			s.Metadata[w.pick("role", "Role", "x")] = w.pick("", "a", "b", strings.Repeat("é", 100))
		}
		o, err = registry.NewMachine(s)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) change(n int) {
	var items []registry.Item
	for range n {
		if o := w.object(); w.rng.IntN(3) > 0 {
			items = append(items, registry.Put(o))
		} else {
			items = append(items, registry.Delete(o.Key()))
		}
	}
	w.reg.Apply(items)
}

func (w *world) save(d *Dir) map[registry.Key]string {
	w.t.Helper()
	if err := d.Save(w.reg.Snapshot(), now); err != nil {
		w.t.Fatal(err)
	}
	return registrytest.Objects(w.reg)
}

// load returns what the newest state of a directory that can be used has.
func load(t testing.TB, dir string) (*Contents, map[registry.Key]string, []error) {
	t.Helper()
	var errs []error
	d := New(dir, source)
	defer d.Close()
	c := d.Load(func(_ string, err error) { errs = append(errs, err) })
	if c == nil {
		return nil, nil, errs
	}
	return c, restored(t, c), errs
}

// restored returns what a registry has that was restored, after comparing it with one
// into which the same was put.
func restored(t testing.TB, c *Contents) map[registry.Key]string {
	t.Helper()
	r, same := registry.New(), registry.New()
	c.Restore(r)
	same.Apply(c.Items())
	got := registrytest.Objects(r)
	if want := registrytest.Objects(same); !maps.Equal(got, want) || c.Objects() != len(want) {
		t.Fatalf("restored are %d objects, %d counted, put %d", len(got), c.Objects(), len(want))
	}
	for kind := range registry.Kinds() {
		if k := registry.Kind(kind); r.Count(k) != same.Count(k) {
			t.Errorf("%d of kind %s are counted, want %d", r.Count(k), k, same.Count(k))
		}
	}
	for i := range registry.Classes {
		if class := registry.Class(i); r.Size(class) != same.Size(class) {
			t.Errorf("%d %s are counted, want %d", r.Size(class), class.Plural(), same.Size(class))
		}
	}
	networks := map[registry.Network]bool{}
	for key := range got {
		networks[key.Network] = true
	}
	for n := range networks {
		if r.Snapshot().Counts(n) != same.Snapshot().Counts(n) {
			t.Errorf("%s: %+v, want %+v", n, r.Snapshot().Counts(n), same.Snapshot().Counts(n))
		}
	}
	same.Snapshot().Each(registry.KindMachine, func(o registry.Object) bool {
		m := o.(*registry.Machine)
		if !m.Addr.IsValid() {
			return true
		}
		want, _ := same.Snapshot().MachineNear(m.Addr)
		if owner, _ := r.Snapshot().MachineNear(m.Addr); owner == nil || owner.Key() != want.Key() {
			t.Errorf("%v owns the /112 of %s, want %v", owner, m.Addr, want)
		}
		return true
	})
	return got
}

// Whatever is changed and saved, by whichever of several processes one after the
// other, is what is loaded.
func TestWhatIsSavedIsLoaded(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(t, seed)
		dir := t.TempDir()
		d := New(dir, source)
		var want map[registry.Key]string
		for step := range 12 {
			w.change(w.rng.IntN(60))
			want = w.save(d)
			c, got, errs := load(t, dir)
			if !maps.Equal(got, want) || len(errs) > 0 || !c.Saved.Equal(now) || c.Source != source || c.Cut != 0 || c.Why != nil {
				t.Fatalf("seed %d, step %d: %d objects are loaded, %d were saved; %+v %v", seed, step, len(got), len(want), c, errs)
			}
			if w.rng.IntN(3) > 0 {
				continue
			}
			d.Close() // another process goes on
			w.reg = registry.New()
			d = New(dir, source)
			d.Load(func(path string, err error) { t.Error(path, err) }).Restore(w.reg)
			d.Continue(w.reg.Snapshot())
		}
		d.Close()
	}
}

// A file has objects of one moment at which it was saved, or cannot be used, wherever
// it ends and whichever byte of it is another.
func TestDamageIsFound(t *testing.T) {
	w := newWorld(t, 7)
	dir := t.TempDir()
	d := New(dir, source)
	var moments []map[registry.Key]string
	for range 3 {
		w.change(8)
		moments = append(moments, w.save(d))
	}
	d.Close()
	path := filepath.Join(dir, Name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // not truncated and closed each time, which waits for the disk
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[int]int{}
	try := func(what string, at int, damaged []byte, most int) {
		t.Helper()
		if _, err := f.WriteAt(damaged, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(len(damaged))); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path)
		if err != nil {
			seen[-1]++
			if int64(at) >= whole.base {
				t.Fatalf("%s at %d, behind the first batch: %v", what, at, err)
			}
			return
		}
		r := registry.New()
		c.Restore(r)
		got := registrytest.Objects(r)
		for i := range moments {
			if maps.Equal(got, moments[i]) && i <= most {
				seen[i]++
				return
			}
		}
		t.Fatalf("%s at %d: %d objects that are of no moment", what, at, len(got))
	}
	for i := range data {
		try("cut", i, data[:i], 1)
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		try("a bit turned", i, damaged, 1)
		damaged[i] = 0
		if data[i] != 0 {
			try("a byte cleared", i, damaged, 1)
		}
	}
	empty := binary.LittleEndian.AppendUint32(make([]byte, 4), checksum(whole.sum, make([]byte, 4), nil)) // a block of nothing
	for _, more := range [][]byte{empty, {0}, make([]byte, 100), data, data[whole.base:], bytes.Repeat([]byte{0xff}, 100)} {
		try("more behind the end", len(data), append(bytes.Clone(data), more...), 2)
		if c, err := Read(path); err != nil || c.Cut != int64(len(more)) || c.Why == nil {
			t.Errorf("%d bytes behind the end: %v", len(more), err)
		}
	}
	if seen[-1] == 0 || seen[0] == 0 || seen[1] == 0 || seen[2] != 6 {
		t.Errorf("unusable, and as of each moment: %v", seen)
	}
}

// A batch that was not written to its end is not used, and the next process goes on
// behind the one before it.
func TestATornTailIsCutOff(t *testing.T) {
	w := newWorld(t, 8)
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	d := New(dir, source)
	w.change(60)
	before := w.save(d)
	size := d.out.size
	w.change(60)
	w.save(d)
	torn := d.out.size - 5
	d.Close()
	if err := os.Truncate(path, torn); err != nil {
		t.Fatal(err)
	}
	c, got, errs := load(t, dir)
	if !maps.Equal(got, before) || len(errs) > 0 || c.Cut != torn-size || !errors.Is(c.Why, errShort) {
		t.Fatalf("%d objects, %d bytes cut off (%v), %v", len(got), c.Cut, c.Why, errs)
	}
	w.reg = registry.New()
	d = New(dir, source)
	defer d.Close()
	d.Load(func(path string, err error) { t.Error(path, err) }).Restore(w.reg)
	d.Continue(w.reg.Snapshot())
	info := stat(t, path)
	w.change(60)
	after := w.save(d)
	if c, got, errs := load(t, dir); !maps.Equal(got, after) || len(errs) > 0 || c.Cut != 0 || !os.SameFile(info, stat(t, path)) {
		t.Errorf("%d objects of %d, %d bytes cut off, %v; appended to the file: %t", len(got), len(after), c.Cut, errs, os.SameFile(info, stat(t, path)))
	}
}

func stat(t testing.TB, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// Machines that hold the same metadata in memory do so when they are loaded.
func TestMetadataStaysShared(t *testing.T) {
	w := newWorld(t, 10)
	w.reg.Apply(registrytest.Many(40)) // two apps
	dir := t.TempDir()
	d := New(dir, source)
	defer d.Close()
	w.save(d)
	c, _, _ := load(t, dir)
	r := registry.New()
	c.Restore(r)
	held := map[*registry.Pair]bool{}
	r.Snapshot().Each(registry.KindMachine, func(o registry.Object) bool {
		held[&o.(*registry.Machine).Metadata[0]] = true
		return true
	})
	if len(held) != 1 {
		t.Errorf("the metadata are held %d times", len(held))
	}
}

// A file of version 1 is read; one of a later version is told and left alone, until
// this dnsd has a state of its own.
func TestVersions(t *testing.T) {
	w := newWorld(t, 11)
	w.change(100)
	want := registrytest.Objects(w.reg)
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	var text bytes.Buffer
	if err := machinejson.Export(&text, w.reg.Snapshot()); err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(asText(text.Bytes(), source))
	c, got, errs := load(t, dir)
	if !maps.Equal(got, want) || len(errs) > 0 || !c.Saved.Equal(now) {
		t.Fatalf("%d objects of %d are read, as of %v, %v", len(got), len(want), c.Saved, errs)
	}
	write(asText(text.Bytes(), "a source with spaces"))
	if c, err := Read(path); err != nil || c.Source != "a source with spaces" {
		t.Errorf("%+v, %v", c, err)
	}
	write(asText(text.Bytes(), source))
	// The next state is of this version, and the one before it stays as it was.
	d := New(dir, source)
	d.Load(func(path string, err error) { t.Error(path, err) })
	d.Continue(w.reg.Snapshot())
	w.change(10)
	want = w.save(d)
	d.Close()
	before, _ := os.ReadFile(filepath.Join(dir, Previous))
	if _, got, errs := load(t, dir); !maps.Equal(got, want) || len(errs) > 0 || !bytes.Equal(before, asText(text.Bytes(), source)) {
		t.Errorf("%d objects of %d are read, %v", len(got), len(want), errs)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for first, says := range map[string]string{
		"#dnsd-state 3\n":    "version 3 of the format, and this dnsd reads up to 2",
		"#dnsd-state 10\n":   "version 10 of the format",
		"#dnsd-state 02\n":   "damaged",
		"#dnsd-state 1\n":    "damaged",
		"#dnsd-state 0\n":    "neither its first line",
		"#dnsd-state -3\n":   "neither its first line",
		"#dnsd-state 2\n\n2": "damaged",
	} {
		other := bytes.Replace(data, []byte("#dnsd-state 2\n"), []byte(first), 1)
		write(other)
		_, err := Read(path)
		if left, _ := os.ReadFile(path); err == nil || !strings.Contains(err.Error(), says) || !bytes.Equal(left, other) {
			t.Errorf("%q: %v, want %q", first, err, says)
		}
	}
	for text, says := range map[string]string{
		"":                    "neither its first line",
		"#dnsd-state 2\n":     errShort.Error(),
		"#dnsd-state 2":       errShort.Error(),
		"#dnsd-state 2\n\x01": errShort.Error(),
		"#dnsd-state 1 x\n":   "neither its first line",
		"a b c\n":             "neither its first line",
		firstLine + strings.Repeat("9", 20) + "\n": "neither its first line",
	} {
		write([]byte(text))
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// asText is a state of version 1.
func asText(registryFile []byte, source string) []byte {
	return fmt.Appendf(bytes.Clone(registryFile), "#dnsd-state 1 %s sha256:%x %s\n", now.UTC().Format(time.RFC3339), sha256.Sum256(registryFile), source)
}

// A state of another source is none.
func TestStateOfAnotherSource(t *testing.T) {
	w := newWorld(t, 12)
	w.change(20)
	dir := t.TempDir()
	d := New(dir, "other://")
	w.save(d)
	d.Close()
	if c, _, errs := load(t, dir); c != nil || len(errs) != 1 || !strings.Contains(errs[0].Error(), "another source, other://") {
		t.Errorf("%v, %v", c, errs)
	}
}

// FuzzRead reads anything as a file. What can be used can be restored.
func FuzzRead(f *testing.F) {
	w := newWorld(f, 13)
	dir := f.TempDir()
	d := New(dir, source)
	for range 2 {
		w.change(20)
		w.save(d)
	}
	d.Close()
	data, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(asText([]byte(`{"apps":[]}`), source))
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Read(path); err == nil {
			restored(t, c)
		}
	})
}

// FuzzObjects reads anything as what an objects block holds, which is what a file
// with right checksums of a program that is wrong could have.
func FuzzObjects(f *testing.F) {
	w := newWorld(f, 14)
	for range 3 {
		w.change(30)
		e := newEncoder(func(body []byte) error { f.Add(body); return nil })
		w.reg.Snapshot().Since(nil, e.fleet, e.other)
		if err := e.flush(); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(binary.AppendUvarint(nil, 1<<40))
	f.Fuzz(func(t *testing.T, body []byte) {
		d := decoder{data: body}
		parts, others, err := d.objects()
		if err != nil {
			return
		}
		blocks := []block{{parts, others}}
		c := &Contents{others: joinOthers(blocks)}
		if c.fleets, err = joinFleets(blocks); err == nil {
			restored(t, c)
		}
	})
}
