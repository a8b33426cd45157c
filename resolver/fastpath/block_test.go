package fastpath

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The object is made from the source beside it: it holds the source's hash.
func TestObjectBelongsToSource(t *testing.T) {
	source, err := os.ReadFile("kernel/answer.c")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(source)
	f, err := elf.Open("kernel/answer.o")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	held, err := f.Section("source").Data()
	if want := hex.EncodeToString(sum[:]); err != nil || strings.TrimRight(string(held), "\x00") != want {
		t.Errorf("the object is of a source with the hash %q, not %s (%v): run kernel/build", held, want, err)
	}
}

// It is what the compiler makes of it, where that is the one it was made by.
func TestObjectIsCompiled(t *testing.T) {
	out, err := exec.Command("clang-14", "--version").Output()
	if err != nil || !strings.Contains(string(out), "clang version 14.") {
		if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
			t.Fatal("would be skipped: needs clang 14 (Debian: clang-14)")
		}
		t.Skip("needs clang 14 (Debian: clang-14)")
	}
	made := filepath.Join(t.TempDir(), "answer.o")
	if out, err := exec.Command("kernel/build", made).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("kernel/answer.o"); err != nil || string(got) != string(want) {
		t.Errorf("the object is not what clang makes of its source (%v): run kernel/build", err)
	}
}
