package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// heading prints a row's title and what it measures.
func (b *bench) heading(title, text string, args ...any) {
	fmt.Fprintf(b.out, "## %s\n\n%s\n\n", title, fmt.Sprintf(text, args...))
}

// table prints a Markdown table.
func (b *bench) table(columns []string, rows [][]string) {
	fmt.Fprintf(b.out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range rows {
		fmt.Fprintf(b.out, "| %s |\n", strings.Join(r, " | "))
	}
	fmt.Fprintln(b.out)
}

// comparison prints series with a ratio to each of the named references.
func (b *bench) comparison(all []series, references ...string) {
	columns := []string{"server", "CPU µs/query, median", "min – max"}
	for _, r := range references {
		columns = append(columns, "ratio to "+r)
	}
	columns = append(columns, "queries/s", "bytes/answer")
	var rows [][]string
	for _, s := range all {
		cells := []string{s.name, fmt.Sprintf("%.2f", median(s.micros)), span(s.micros)}
		for _, name := range references {
			cell := "–"
			for _, r := range all {
				if r.name == name && r.name != s.name {
					cell = fmt.Sprintf("%.2f", ratio(s.micros, r.micros))
				}
			}
			cells = append(cells, cell)
		}
		rows = append(rows, append(cells, fmt.Sprintf("%.0f", median(s.qps)), fmt.Sprintf("%.0f", s.bytes)))
	}
	b.table(columns, rows)
}

func span(values []float64) string {
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf("%.2f – %.2f", low, high)
}

func mib(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }

func milli(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

// machine returns a line about the machine and the run.
func machine(b *bench) string {
	cpu := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _ := exec.Command(b.dnsd, "--version").Output()
	text := fmt.Sprintf("%s, %d cores, Linux %s, %s; %s; %s; %d runs of %d s, one more thrown away; -workers %d.",
		cpu, runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version(), strings.TrimSpace(string(version)),
		time.Now().UTC().Format("2006-01-02"), b.runs, b.seconds, b.workers)
	if b.quick {
		text += " **With -quick: these figures show that it works and nothing else.**"
	}
	return text + "\n"
}
