package corrosion

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
)

// A row that cannot be used any more leaves the version known before, on the
// stream and in a listing, whatever it says instead.
func TestBadRowsKeepWhatWasKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		bad  corrosiontest.Row
		text string
	}{
		{"metadata", with(row("m1", "started"), "metadata", `{"a":1}`), "metadata is not"},
		{"state", row("m1", ""), "state is missing"},
		{"address in another network", with(row("m1", "started"), "private_ip", "fdaa:0:19::1"), "not in its network"},
		{"another network", with(with(row("m1", ""), "network", "fdaa:0:19::/48"), "private_ip", "fdaa:0:19::1"), "state is missing"},
		{"network", with(row("m1", "started"), "network", "18"), `network "18"`},
		{"no network at all", with(with(row("m1", "started"), "network", ""), "private_ip", nil), "both missing"},
		{"no app", with(row("m1", "started"), "app", ""), "app is missing"},
		{"app", with(row("m1", "started"), "app", "has.dot"), `app "has.dot"`},
		{"app of another", with(row("m1", ""), "app", "other-app"), "state is missing"},
		{"a cell that is too long", with(row("m1", "started"), "metadata", strings.Repeat("x", maxLine)), "longer than 8 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) {
				f.agent.Put("machines", row("m1", "started"), row("m3", "started"))
			})
			f.waitListed(1)
			rejected := func() registry.Item {
				if len(f.world.Seen().Rejects) == 0 {
					t.Fatal("nothing was rejected")
				}
				return f.world.Seen().Rejects[len(f.world.Seen().Rejects)-1]
			}
			f.agent.Put("machines", test.bad, row("m2", "started"))
			f.waitState("m2", "started")
			// The row is still the machine that it was.
			if got := rejected(); got.Key != machineKey("m1") || !strings.Contains(got.Err.Error(), test.text) || got.Where != "machines row 1" {
				t.Errorf("rejected %+v", got)
			}
			if f.state("m1") != "started" {
				t.Error("on the stream, the version known before is gone")
			}
			if n := f.world.Listings(); n != 1 || f.failed() != "" {
				t.Errorf("a bad row cost the stream: %d listings, Follow returned %q", n, f.failed())
			}
			f.relist()
			f.waitListed(2)
			if got := rejected(); got.Key.ID != "m1" || !got.Key.AnyNetwork || got.Where != "machines row 1" {
				t.Errorf("rejected %+v in the listing", got)
			}
			if f.state("m1") != "started" || f.state("m3") != "started" {
				t.Error("after a listing, the version known before is gone")
			}
			// What it becomes counts again, wherever that is.
			f.agent.Put("machines", with(row("m1", "stopped"), "app", "new-app"))
			moved := machineKey("m1")
			moved.Name = "new-app"
			f.wait("the mended row", func() bool { return f.world.Known(moved) != nil && f.state("m1") == "" })
			f.agent.Delete("machines", row("m1", ""))
			f.wait("its end", func() bool { return f.world.Known(moved) == nil })
		})
	}
}

// What of a row cannot be used is told with its place, and costs no more than itself.
func TestRowUsedInPart(t *testing.T) {
	texts := func(metadata string) json.RawMessage {
		cells, err := json.Marshal([]any{"m1", "fdaa:0:18::/48", "my-app", "iad", "web", "started", "fdaa:0:18::7", metadata})
		if err != nil {
			t.Fatal(err)
		}
		return cells
	}
	b, err := shapes[0].bind(shapes[0].columns)
	if err != nil {
		t.Fatal(err)
	}
	e := shapes[0].entry(b, 7, texts(`{"a":"`+strings.Repeat("x", 1<<16)+`"}`))
	m, _ := e.item.Object.(*registry.Machine)
	if m == nil || e.item.Note == nil || e.item.Where != "machines row 7" || !slices.Equal(m.Metadata, []registry.Pair{{Key: "fly_process_group", Value: "web"}}) {
		t.Errorf("read as %+v, noted %v at %s", m, e.item.Note, e.item.Where)
	}
	if e := shapes[0].entry(b, 8, texts(`{"a":"1"}`)); e.item.Note != nil || e.item.Where != "" {
		t.Errorf("noted %v at %s", e.item.Note, e.item.Where)
	}
}

// A row that was never of use, and comes and goes, costs nothing but itself.
func TestBadRowsFromTheStart(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) { f.agent.Put("machines", row("m1", "started")) })
	f.waitListed(1)
	for _, bad := range []corrosiontest.Row{with(row("m2", "started"), "app", ""), row("m2", ""), with(row("m2", "started"), "network", "18")} {
		f.agent.Put("machines", bad)
		f.agent.Put("machines", row("m2", "started"))
		f.waitState("m2", "started")
		f.agent.Delete("machines", row("m2", ""))
		f.waitState("m2", "")
	}
	if n := f.world.Listings(); n != 1 {
		t.Errorf("listed %d times, want 1", n)
	}
}

// A row longer than any line may be costs itself: no other row, no connection,
// and not what was known of it.
func TestRowTooLong(t *testing.T) {
	t.Parallel()
	long := func(letter string) corrosiontest.Row {
		return with(row("m2", "started"), "metadata", strings.Repeat(letter, maxLine))
	}
	f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) {
		f.agent.Put("machines", row("m1", "started"), long("x"), row("m3", "started"))
	})
	f.waitListed(1)
	if f.state("m1") != "started" || f.state("m2") != "" || f.state("m3") != "started" {
		t.Errorf("known: %v", f.world.Seen().Objects)
	}
	f.agent.Put("machines", long("y"), row("m3", "stopped"))
	f.waitState("m3", "stopped")
	f.agent.Delete("machines", row("m2", "")) // a delete carries the last values
	f.agent.Put("machines", row("m3", "failed"))
	f.waitState("m3", "failed")
	f.agent.Put("machines", row("m4", "started"))
	f.waitState("m4", "started")
	// The listing may have kept something because of the row: only a listing can tell.
	if n, want := f.world.Listings(), 2; n != want || f.failed() == "" {
		t.Errorf("%d listings, want %d; Follow returned %q", n, want, f.failed())
	}
	if n := f.agent.Counts().Resumed; n != 0 {
		t.Errorf("a long row was taken for a gap %d times", n)
	}
}

func TestCells(t *testing.T) {
	b, err := shapes[2].bind([]string{"region", "extra", "private_ip", "name", "network"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.texts([]byte(`[null, 9223372036854775807, [102,100,97,97], "a\u00e9\n", -9007199254740993]`))
	if want := []string{"-9007199254740993", "aé\n", "fdaa", ""}; err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{`[null,1,2,3]`, `[null,{},1,2,3]`, `{}`, `[1,2,[300],4,5]`, `[1,2,["x"],4,5]`} {
		if got, err := b.texts([]byte(bad)); err == nil {
			t.Errorf("%s gave %q", bad, got)
		}
	}
}

func TestTable(t *testing.T) {
	const a, b, c = 1, 2, 3 // contents
	key := machineKey("m1")
	anywhere := registry.Key{Kind: registry.KindMachine, Name: "my-app", ID: "m1", AnyNetwork: true}
	write := func(row, sum uint64, id string) entry {
		o, _ := registry.NewMachine(registry.MachineSpec{ID: id, App: "my-app", Network: "fdaa:0:18::/48", State: "started"})
		return entry{row: row, sum: sum, item: registry.Put(o)}
	}
	gone := func(row uint64) entry { return entry{row: row, gone: true} }
	bad := func(row uint64, key registry.Key) entry {
		return entry{row: row, item: registry.Reject(key, "", errors.New("bad"))}
	}
	for _, test := range []struct {
		name    string
		entries []entry
		want    string // of the last entry: p put, d delete, r reject, l lost
	}{
		{"put", []entry{write(1, a, "m1")}, "p"},
		{"delete", []entry{write(1, a, "m1"), gone(1)}, "d"},
		{"delete of the unknown", []entry{gone(1)}, ""},
		{"key changed", []entry{write(1, a, "m1"), write(1, b, "m2")}, "dp"},
		{"new row, then the old one gone", []entry{write(1, a, "m1"), write(2, b, "m1"), gone(1)}, ""},
		{"and then the new one", []entry{write(1, a, "m1"), write(2, b, "m1"), gone(1), gone(2)}, "d"},
		{"new row gone", []entry{write(1, a, "m1"), write(2, b, "m1"), gone(2)}, "l"},
		{"new row of the same content gone", []entry{write(1, a, "m1"), write(2, a, "m1"), gone(2)}, ""},
		{"three rows, last written gone", []entry{write(1, a, "m1"), write(2, a, "m1"), write(3, b, "m1"), gone(1), gone(3)}, "l"},
		{"three rows, one left", []entry{write(1, a, "m1"), write(2, c, "m1"), write(3, b, "m1"), gone(1), gone(2), gone(3)}, "d"},
		{"moved onto another, then away", []entry{write(1, a, "m1"), write(2, b, "m2"), write(2, b, "m1"), write(2, b, "m3")}, "lp"},
		{"bad", []entry{write(1, a, "m1"), bad(1, key)}, "r"},
		{"bad and gone", []entry{write(1, a, "m1"), bad(1, key), gone(1)}, "d"},
		{"bad under another name", []entry{write(1, a, "m1"), bad(1, machineKey("m2"))}, "r"},
		{"bad under another name, then gone", []entry{write(1, a, "m1"), bad(1, machineKey("m2")), gone(1)}, "d"},
		{"bad under another name, then mended so", []entry{write(1, a, "m1"), bad(1, machineKey("m2")), write(1, b, "m2")}, "dp"},
		{"bad and as it was", []entry{write(1, a, "m1"), bad(1, key), write(1, a, "m1")}, "p"},
		{"nothing new", []entry{write(1, a, "m1"), write(1, a, "m1")}, ""},
		{"nothing new of one of two rows", []entry{write(1, a, "m1"), write(2, b, "m1"), write(1, a, "m1")}, "p"},
		{"bad without a name", []entry{write(1, a, "m1"), bad(1, registry.Key{})}, "r"},
		{"bad without a name, then gone", []entry{write(1, a, "m1"), bad(1, registry.Key{}), gone(1)}, "d"},
		{"nameless from the start, then gone", []entry{bad(1, registry.Key{}), gone(1)}, ""},
		{"without a network from the start, then gone", []entry{bad(1, anywhere), gone(1)}, "l"},
		{"without a network from the start, then mended", []entry{bad(1, anywhere), write(1, a, "m1")}, "lp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, got := newTable(true), ""
			for i := range test.entries {
				items, err := table.apply(&test.entries[i], nil)
				table.keeps = false
				got = ""
				if errors.Is(err, errLost) {
					got = "l"
				}
				for _, item := range items {
					switch {
					case item.Err != nil:
						got += "r"
					case item.Object != nil:
						got += "p"
					default:
						got += "d"
					}
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestLineReader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*readBuffer)
	tooLong := strings.Repeat("y", maxLine+1)
	text := "a\n\n" + long + "\nb\n" + tooLong + "\nc\nlast"
	for name, r := range map[string]io.Reader{
		"whole":    strings.NewReader(text),
		"halves":   iotest.HalfReader(strings.NewReader(text)),
		"with EOF": iotest.DataErrReader(strings.NewReader(text)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLineReader(r)
			for _, want := range []string{"a", "", long, "b", "TOO LONG", "c", "last"} {
				line, err := l.next()
				if want == "TOO LONG" {
					var over *longLine
					if !errors.As(err, &over) || string(over.head) != tooLong[:readBuffer] || string(over.tail) != tooLong[:tailSize-1]+"\n" {
						t.Fatalf("got %d bytes, %v", len(line), err)
					}
				} else if err != nil || string(line) != want {
					t.Fatalf("got %.20q, %v; want %.20q", line, err, want)
				}
			}
			if _, err := l.next(); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// Whatever an agent sends, it is read as something or refused; a key that comes
// of it can be one of the registry's.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"row":[1,["m1","fdaa:0:18::/48","my-app","iad","web","started","","{}"]]}`))
	f.Add([]byte(`{"change":["update",2,["fdaa:0:18::/48","my-peer",null,[1,2]],3]}`))
	f.Add([]byte(`{"eoq":{"time":8e-8,"change_id":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var ev event
		if json.Unmarshal(line, &ev) != nil {
			return
		}
		_, cells, _ := rowOf(ev.Row)
		if c, err := changeOf(ev.Change); err == nil {
			cells = c.cells
		}
		for _, shape := range shapes {
			b, err := shape.bind(shape.columns)
			if err != nil {
				t.Fatal(err)
			}
			e := shape.entry(b, 1, cells)
			if o := e.item.Object; o != nil {
				texts, _ := b.texts(cells)
				key, want := shape.key(texts), o.Key()
				if key.AnyNetwork {
					want.Network, want.AnyNetwork = 0, true
				}
				if key != want {
					t.Errorf("the row's key is %+v, the object's %+v", key, o.Key())
				}
			} else if e.item.Err == nil {
				t.Error("neither an object nor an error")
			}
			newTable(false).apply(&e, nil)
		}
	})
}

// What of a row that cannot be used tells which object it is.
func TestKeyOfBadRow(t *testing.T) {
	for _, test := range []struct {
		shape int
		texts []string
		want  registry.Key
	}{
		{0, []string{"m1", "", "has.dot", "", "", "", "", "", ""}, registry.Key{Kind: registry.KindMachine, Name: "has.dot", ID: "m1", AnyNetwork: true}},
		{0, []string{"", "fdaa:0:18::/48", "My-App", "", "", "", "", "", ""}, registry.Key{Kind: registry.KindMachine, Network: net18, Name: "my-app"}},
		{0, nil, registry.Key{Kind: registry.KindMachine}},
		{1, []string{"18", "my-app"}, registry.Key{Kind: registry.KindApp, Name: "my-app", AnyNetwork: true}},
		{1, []string{"fdaa:0:18::/48", ""}, registry.Key{Kind: registry.KindApp}},
		{2, []string{"", "office", "fdaa:0:18::7", "\n"}, registry.Key{Kind: registry.KindPeer, Network: net18, Name: "office"}},
		{2, []string{"fdaa:0:19::/48", "office", "fdaa:0:18::7", ""}, registry.Key{Kind: registry.KindPeer, Name: "office", AnyNetwork: true}},
		{3, []string{"fdaa:0:18::/48", "my-app", "nonsense"}, registry.Key{Kind: registry.KindAddress}},
	} {
		item := shapes[test.shape].reject(test.texts, 1, errors.New("unusable"))
		if got := item.Key; got.Kind != test.want.Kind || got.Name != test.want.Name || got.ID != test.want.ID || got.AnyNetwork != test.want.AnyNetwork || !got.AnyNetwork && got.Network != test.want.Network {
			t.Errorf("%q: %+v, want %+v", test.texts, got, test.want)
		}
	}
}
