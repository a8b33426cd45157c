package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the user and system time that processes have used, from their CPU
// clocks, of which /proc/PID/stat shows the same sum in ticks of 10 ms.
func cpuTime(pids ...int) (sum time.Duration) {
	for _, pid := range pids {
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid<<3|2), &ts) == nil { // as clock_getcpuclockid(3) makes it
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// resident returns how much memory processes hold, in bytes.
func resident(pids ...int) (sum int64) {
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				sum += kib << 10
			}
		}
	}
	return sum
}

// busy returns the time that all processors of the machine were at work, and idle or
// not.
func busy() (work, all int64) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i == 0 || i > 8 { // guests are in user time already
			continue
		}
		all += n
		if i != 4 && i != 5 { // idle, waiting for a disk
			work += n
		}
	}
	return work, all
}

// What is read of etcd's metrics: bytes of messages to its clients, and watchers.
const (
	metricSent     = "etcd_network_client_grpc_sent_bytes_total"
	metricWatchers = "etcd_debugging_mvcc_watcher_total"
)

// etcdMetrics returns some of etcd's metrics, by name.
func etcdMetrics(endpoint string) map[string]int64 {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + endpoint + "/metrics")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return samples(string(text))
}

// samples reads metrics without labels.
func samples(text string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if f, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = int64(f)
		}
	}
	return out
}

// cost is what a row has cost so far.
type cost struct {
	at        time.Time
	etcd      time.Duration
	proxies   time.Duration
	sites     time.Duration
	etcdSent  int64
	watchers  int64 // at present
	proxySent int64
	work, all int64 // of the machine, in ticks
}

// costs reads what everything has used up to now; sent is what the sites report of
// their loopback devices.
func (s *simulation) costs(sent int64) cost {
	metrics := etcdMetrics(s.cluster.Endpoints()[0])
	c := cost{at: time.Now(), etcd: cpuTime(s.cluster.PIDs()...), proxies: cpuTime(s.proxyPIDs()...), sites: cpuTime(s.sitePIDs()...),
		etcdSent: metrics[metricSent], watchers: metrics[metricWatchers], proxySent: sent}
	c.work, c.all = busy()
	return c
}

// megabytes writes a number of bytes.
func megabytes(n int64) string { return fmt.Sprintf("%.0f", float64(n)/1e6) }

// cores writes CPU time as a part of a processor.
func cores(used, over time.Duration) string {
	return fmt.Sprintf("%.3f", used.Seconds()/over.Seconds())
}

// round writes a duration as people read it.
func round(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
