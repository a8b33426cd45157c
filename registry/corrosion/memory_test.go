package corrosion

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	m := newMemory(dir, "corrosion://127.0.0.1:1")
	saved := &knowledge{Self: "B", Members: 2, Down: 1, Sites: map[string]site{"A": {Head: 9, Gaps: []span{{2, 3}}}, "B": {Head: 1}}}
	if err := m.save(saved); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	want := *saved
	want.Down = 0 // is not kept
	for _, test := range []struct {
		name, text string
		known      *knowledge
		err        string
	}{
		{"saved", string(good), &want, ""},
		{"another source", strings.Replace(string(good), ":1\"", ":2\"", 1), nil, ""},
		{"damaged", string(good[:len(good)/2]), nil, memoryFile + ": unexpected end"},
		{"empty", "", nil, memoryFile + ": unexpected end"},
		{"too large", string(good) + strings.Repeat(" ", maxMemory), nil, "larger than"},
	} {
		for name, text := range map[string]string{memoryFile: test.text, memoryFile + ".tmp": "of a write that broke off"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		known, err := m.load()
		if !reflect.DeepEqual(known, test.known) || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: loaded %+v, %v", test.name, known, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("the directory holds %q", left)
	}
	if info, err := os.Stat(m.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
	if known, err := m.load(); known != nil || err != nil {
		t.Errorf("of no file: %+v, %v", known, err)
	}
	if err := newMemory(filepath.Join(dir, "none"), "").save(saved); err == nil {
		t.Error("saved into a directory that is not there")
	}

	none := newMemory("", "corrosion://127.0.0.1:1")
	if known, err := none.load(); known != nil || err != nil || none.save(saved) != nil {
		t.Errorf("without a directory: %+v, %v", known, err)
	}
}
