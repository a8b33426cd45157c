package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// tally is what a load generator says about a run.
type tally struct {
	sent, answered int
	rcodes         map[string]int
	bytes          float64 // of a response, on average
	elapsed        time.Duration
}

// dnsperf asks the questions of a file as fast as they are answered. 16 clients
// are 16 ports, so that reuseport spreads them; 400 outstanding questions keep
// any server busy and fit any socket buffer.
func dnsperf(ctx context.Context, addr, file string, length time.Duration, extra ...string) (tally, error) {
	host, p := splitAddr(addr)
	args := append([]string{"-s", host, "-p", p, "-d", file, "-l", strconv.Itoa(int(length.Seconds())), "-c", "16", "-q", "400", "-t", "2"}, extra...)
	cmd := exec.CommandContext(ctx, "dnsperf", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return tally{}, fmt.Errorf("dnsperf: %w\n%s", err, stderr.String())
	}
	return parseDnsperf(stdout.String())
}

// The lines of dnsperf's statistics that count.
var (
	lineSent     = regexp.MustCompile(`(?m)^\s*Queries sent:\s+(\d+)`)
	lineAnswered = regexp.MustCompile(`(?m)^\s*Queries completed:\s+(\d+)`)
	lineCodes    = regexp.MustCompile(`(?m)^\s*Response codes:\s+(.*)$`)
	oneCode      = regexp.MustCompile(`([A-Z0-9]+) (\d+) \(`)
	lineSize     = regexp.MustCompile(`(?m)^\s*Average packet size:\s+request \d+, response (\d+)`)
	lineTime     = regexp.MustCompile(`(?m)^\s*Run time \(s\):\s+([\d.]+)`)
)

// parseDnsperf reads the statistics that dnsperf prints at its end.
func parseDnsperf(text string) (tally, error) {
	t := tally{rcodes: make(map[string]int)}
	number := func(re *regexp.Regexp) (float64, error) {
		m := re.FindStringSubmatch(text)
		if m == nil {
			return 0, fmt.Errorf("dnsperf printed no line that matches %q", re)
		}
		return strconv.ParseFloat(m[1], 64)
	}
	var values [4]float64
	for i, re := range []*regexp.Regexp{lineSent, lineAnswered, lineSize, lineTime} {
		v, err := number(re)
		if err != nil {
			return t, err
		}
		values[i] = v
	}
	t.sent, t.answered, t.bytes = int(values[0]), int(values[1]), values[2]
	t.elapsed = time.Duration(math.Round(values[3]*1e6)) * time.Microsecond
	codes := lineCodes.FindStringSubmatch(text)
	if codes == nil {
		return t, fmt.Errorf("dnsperf printed no response codes")
	}
	sum := 0
	for _, m := range oneCode.FindAllStringSubmatch(codes[1], -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return t, err
		}
		t.rcodes[m[1]] = n
		sum += n
	}
	if sum != t.answered {
		return t, fmt.Errorf("dnsperf counts %d answers and %d response codes", t.answered, sum)
	}
	return t, nil
}

// fair says whether a run may be counted: nothing but the wanted response
// codes, in the wanted proportion, and next to nothing lost.
func (t tally) fair(missing float64) error {
	if t.answered == 0 {
		return fmt.Errorf("no answers")
	}
	// Each loss costs dnsperf a time-out of 2 s of one of its 400 slots; a
	// server that loses one in a hundred is not answering the load.
	if lost := t.sent - t.answered; lost > t.sent/100+400 {
		return fmt.Errorf("%d of %d questions were not answered", lost, t.sent)
	}
	nx := float64(t.rcodes["NXDOMAIN"]) / float64(t.answered)
	if other := t.answered - t.rcodes["NXDOMAIN"] - t.rcodes["NOERROR"]; other > 0 || nx < missing*0.9 || nx > missing*1.1 {
		return fmt.Errorf("response codes %v, want NXDOMAIN in %.0f %% and otherwise NOERROR", t.rcodes, 100*missing)
	}
	return nil
}
