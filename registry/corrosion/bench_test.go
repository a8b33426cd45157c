package corrosion

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
)

// nowhere is a feed that costs nothing.
type nowhere struct{ listed context.CancelFunc }

func (nowhere) List(context.Context, []registry.Item) error   { return nil }
func (n nowhere) Listed(context.Context, string) error        { n.listed(); return nil }
func (nowhere) Change(context.Context, []registry.Item) error { return nil }
func (nowhere) Reached(context.Context, int64, int64) error   { return nil }

// BenchmarkListing lists 20,000 machines, the work of the fake agent included.
func BenchmarkListing(b *testing.B) {
	const machines = 20_000
	agent, err := corrosiontest.New(corrosiontest.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer agent.Close()
	for i := range machines {
		agent.Put("machines", row(fmt.Sprintf("m%x", i%0xffff), "started"))
	}
	src, err := New(Config{Addr: agent.Addr()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		src.Follow(ctx, nowhere{cancel}, false)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/machines, "ns/row")
}

// BenchmarkSum is what a row costs in a comparison.
func BenchmarkSum(b *testing.B) {
	line := []byte(`{"row":[77,["0000000000012c","fdaa:0:18::/48","app-3","iad","web","started","fdaa:0:18:a7b:2:1:12d:2","{\"role\":\"primary\"}"]]}`)
	at, err := shapes[0].bind(shapes[0].columns)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ev := new(event)
		if err := json.Unmarshal(line, ev); err != nil {
			b.Fatal(err)
		}
		_, cells, err := rowOf(ev.Row)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := at.read(cells); err != nil {
			b.Fatal(err)
		}
	}
}
