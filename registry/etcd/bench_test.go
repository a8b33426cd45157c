package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
)

// BenchmarkList lists machines from a real member on this host. It needs a
// cluster's worth of memory, so that it runs only where DNSD_ETCD_BENCH gives
// the number of machines:
//
//	DNSD_ETCD_BENCH=1000000 go test ./registry/etcd -run ^$ -bench List -benchtime 3x
//
// peak-MiB is the highest resident memory of the reading process so far; the
// feed counts and drops the objects. rows/s is what a listing brings.
func BenchmarkList(b *testing.B) {
	n, _ := strconv.Atoi(os.Getenv("DNSD_ETCD_BENCH"))
	if n == 0 {
		b.Skip("DNSD_ETCD_BENCH is not set")
	}
	s := benchSource(b, n)
	for b.Loop() {
		f := &counter{}
		ctx, cancel := context.WithCancel(context.Background())
		f.done = cancel
		_ = s.Follow(ctx, f, false)
		if f.objects != n {
			b.Fatalf("%d objects, want %d", f.objects, n)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(peakMiB(b), "peak-MiB")
}

// counter is a feed that ends the source once it has listed.
type counter struct {
	objects int
	done    context.CancelFunc
}

func (c *counter) List(_ context.Context, items []registry.Item) error {
	for _, i := range items {
		if i.Object != nil {
			c.objects++
		}
	}
	return nil
}
func (c *counter) Listed(context.Context, string) error                { c.done(); return nil }
func (c *counter) Reached(ctx context.Context, _, _ int64) error       { return ctx.Err() }
func (c *counter) Change(ctx context.Context, _ []registry.Item) error { return ctx.Err() }

// peakMiB returns the process's highest resident memory.
func peakMiB(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(text)[0])
			return float64(kb) / 1024
		}
	}
	return 0
}

// benchSource returns a source for a member with n machines of the size and
// spread that the goals name: 20 an app, 10 apps a network.
func benchSource(b *testing.B, n int) *Source {
	c := etcdtest.Start(b, etcdtest.Options{})
	cli := c.Client()
	began := time.Now()
	if err := load(context.Background(), cli, n, func(i int) (key, value string) {
		network := registry.Network(0x100 + i/200)
		app, id := fmt.Sprintf("app-%d", i/20), fmt.Sprintf("%014x", 0x148e21dad76789+i*7919)
		address := strings.TrimSuffix(network.Prefix().Addr().String(), ":") + fmt.Sprintf("a7b:7d:%x:%x:2", i>>16, i&0xffff)
		return prefix + "machines/" + network.Prefix().Addr().String() + "/" + app + "/" + id, fmt.Sprintf(
			`{"id":%q,"app":%q,"state":"started","region":"iad","private_ip":%q,"config":{"metadata":{"fly_process_group":"web","role":"primary"}}}`,
			id, app, address)
	}); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d machines written in %s", n, time.Since(began).Round(time.Second))
	s, err := New(Config{Endpoints: c.Endpoints(), Prefix: prefix}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	return s
}
