package tenants

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// large returns a network of many apps, one of which has many machines with
// metadata of their own, as it is after a number of changes.
func large(changes int) []object {
	apps, machines := lab.Full(5_000, 20_000), 10_000
	addr := func(app, i int) string {
		return fmt.Sprintf("fdaa:0:a:%x:%x:%x:%x:2", 0x1000+app>>12, app&0xfff, i>>12, i&0xfff)
	}
	regions := []string{"fra", "iad", "ams", "sjc", "nrt", "nowhere"}
	var big []object
	for i := range machines {
		metadata := object{"n": fmt.Sprint(i), "role": []string{"primary", "replica"}[i%2], "dotted": fmt.Sprintf("a.b%d.c", i%100)}
		for k := range 10 {
			metadata[fmt.Sprintf("key%d", (i+k)%100)] = fmt.Sprintf("value%d", i)
		}
		metadata["changes"] = fmt.Sprint(changes)
		big = append(big, object{"id": fmt.Sprintf("big%05d", i), "state": "started", "region": regions[i%len(regions)],
			"private_ip": addr(0, i), "config": object{"metadata": metadata}})
	}
	out := []object{{"name": "big", "network": network(machineA).String(), "machines": big}}
	for a := range apps {
		out = append(out, object{"name": fmt.Sprintf("app-%05d", a), "network": network(machineA).String(), "machines": []object{
			{"id": fmt.Sprintf("only%05d", a), "state": "started", "region": "fra", "private_ip": addr(a+1, 0)}}})
	}
	return out
}

// TestDearQuestions has a ask what takes long to answer, 2,000 times a second and
// while its network changes: b does not notice.
func TestDearQuestions(t *testing.T) {
	files := [2][]byte{}
	for i := range files {
		data, err := json.Marshal(object{"apps": append([]object{home(machineA), home(machineB)}, large(i)...)})
		if err != nil {
			t.Fatal(err)
		}
		files[i] = data
	}
	h := newHost(t, large(0))
	for _, tt := range []struct {
		name  string
		qtype uint16
	}{
		{"_dnsd.internal", dns.TypeTXT},
		{"_instances.internal", dns.TypeTXT},
		{"_apps.internal", dns.TypeTXT},
		{"top%d.nearest.of.big.internal", dns.TypeAAAA},
		{"key%d.kv._metadata.big.internal", dns.TypeAAAA},
		{"value%d.role.kv._metadata.big.internal", dns.TypeAAAA},
		{"b%d.c.dotted.kv._metadata.big.internal", dns.TypeAAAA},
		{"all.vms.big.internal", dns.TypeTXT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask := only(tt.name, tt.qtype)
			if strings.Contains(tt.name, "%d") {
				ask = each(tt.name, tt.qtype)
			}
			h.unharmed(t, lab.Full(time.Second, 3*time.Second), func(ctx context.Context) {
				var changing sync.WaitGroup
				defer changing.Wait()
				changing.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						if err := os.WriteFile(h.path+".new", files[i%2], 0o644); err != nil {
							t.Error(err)
							return
						}
						if err := os.Rename(h.path+".new", h.path); err != nil {
							t.Error(err)
							return
						}
						select {
						case <-ctx.Done():
						case <-time.After(lab.Full(time.Second/2, time.Second)):
						}
					}
				})
				flood{rate: 2000, next: ask}.run(ctx, t, h.a, server)
			})
		})
	}
}
