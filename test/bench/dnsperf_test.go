package main

import (
	"strings"
	"testing"
	"time"
)

const dnsperfOutput = `DNS Performance Testing Tool
Version 2.10.0

[Status] Command line: dnsperf -s 127.0.0.1 -p 5301 -d asked -l 1 -c 16 -q 400
[Status] Sending queries (to 127.0.0.1:5301)
[Status] Testing complete (time limit)

Statistics:

  Queries sent:         100010
  Queries completed:    100000 (99.99%)
  Queries lost:         10 (0.01%)

  Response codes:       NOERROR 95000 (95.00%), NXDOMAIN 5000 (5.00%)
  Average packet size:  request 42, response 121
  Run time (s):         1.003456
  Queries per second:   99655.590280

  Average Latency (s):  0.003741 (min 0.000019, max 0.031337)
  Latency StdDev (s):   0.001822
`

func TestParseDnsperf(t *testing.T) {
	got, err := parseDnsperf(dnsperfOutput)
	if err != nil {
		t.Fatal(err)
	}
	if got.sent != 100010 || got.answered != 100000 || got.bytes != 121 || got.elapsed != 1003456*time.Microsecond ||
		got.rcodes["NOERROR"] != 95000 || got.rcodes["NXDOMAIN"] != 5000 {
		t.Errorf("tally is %+v", got)
	}
	for _, cut := range []string{"Queries sent", "Queries completed", "Response codes", "Average packet", "Run time", ", NXDOMAIN 5000 (5.00%)"} {
		if _, err := parseDnsperf(strings.ReplaceAll(dnsperfOutput, cut, "")); err == nil {
			t.Errorf("output without %q is accepted", cut)
		}
	}
}

// A run with wrong answers is not counted, however fast.
func TestFair(t *testing.T) {
	good := tally{sent: 1000, answered: 1000, rcodes: map[string]int{"NOERROR": 950, "NXDOMAIN": 50}}
	if err := good.fair(0.05); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]tally{
		"nothing":           {sent: 1000},
		"servfail":          {sent: 1000, answered: 1000, rcodes: map[string]int{"NOERROR": 949, "NXDOMAIN": 50, "SERVFAIL": 1}},
		"all names exist":   {sent: 1000, answered: 1000, rcodes: map[string]int{"NOERROR": 1000}},
		"none exists":       {sent: 1000, answered: 1000, rcodes: map[string]int{"NXDOMAIN": 1000}},
		"most is not there": {sent: 100000, answered: 50000, rcodes: map[string]int{"NOERROR": 47500, "NXDOMAIN": 2500}},
	} {
		if err := bad.fair(0.05); err == nil {
			t.Errorf("%s: counted", name)
		}
	}
	if err := good.fair(0); err == nil {
		t.Error("NXDOMAIN where every name exists: counted")
	}
}
