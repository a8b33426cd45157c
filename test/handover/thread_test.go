package handover

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"
)

// TestMainThreadWaits: the main thread, to which the kernel gives signals, does nothing,
// so that it never waits for a disk.
func TestMainThreadWaits(t *testing.T) {
	s := newScene(t, 2000)
	s.begin()
	time.Sleep(100 * time.Millisecond)
	ran := func() string {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/status", s.Main()))
		s.must(err)
		return fmt.Sprintf("%s", regexp.MustCompile(`(?m)^(non)?voluntary_ctxt_switches:\s+\d+$`).FindAll(status, -1))
	}
	before := ran()
	s.unnoticed(func() {
		for i := range 20 { // files are read, and the state is written
			s.write(2000 + i)
			time.Sleep(50 * time.Millisecond)
		}
	})
	if after := ran(); after != before {
		t.Errorf("the main thread has run: %s, before: %s", after, before)
	}
}
