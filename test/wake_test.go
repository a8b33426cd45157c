package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestALoneQuestionWakesOneThread asks slowly, so that dnsd waits for each question,
// and counts how often its threads go to sleep: once for each, for the one that answers.
// What is more wakes threads that have nothing to do, which costs more than the answer.
func TestALoneQuestionWakesOneThread(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	req, err := question("my-app.internal", dns.TypeAAAA, false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := w.client("a").Open("udp")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(n int) {
		t.Helper()
		buf := make([]byte, 1500)
		for range n {
			if _, err := conn.Write(req); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(buf); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	ask(50) // what a start leaves to do goes by
	const asked = 300
	before := sleeps(t, w.Pid())
	ask(asked)
	if each := float64(sleeps(t, w.Pid())-before) / asked; each > 2 {
		t.Errorf("threads go to sleep %.1f times for a question, want about once", each)
	}
}

// sleeps returns how often threads of a process have waited for something.
func sleeps(t *testing.T, pid int) (all int) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		_, count, ok := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		var n int
		if _, err := fmt.Sscan(count, &n); !ok || err != nil {
			t.Fatalf("%s has no count of switches: %v", file, err)
		}
		all += n
	}
	return all
}
