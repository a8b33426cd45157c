package zones

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"

	"github.com/miekg/dns"
)

// quiet is a source that lists items and is silent ever after.
type quiet []registry.Item

func (q quiet) Follow(ctx context.Context, feed follow.Feed, _ bool) error {
	if err := feed.List(ctx, q); err != nil {
		return err
	}
	if err := feed.Listed(ctx, ""); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (quiet) String() string { return "quiet:" + strings.Repeat("x", 300) }

// The age in _dnsd is the time since the source was last heard, and the one
// part of all answers that a clock moves: it is never kept.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := registry.New()
		f := follow.New(reg, quiet(fleet()), follow.Config{StaleAfter: time.Minute})
		z := New(reg, Config{TTL: 5})
		view, _ := z.Viewer().View(netip.MustParseAddr(m1))
		dnsd := func() string {
			a := ask(t, z, view, m1, "_dnsd.internal", dns.TypeTXT)
			if !a.NoStore {
				t.Error("the answer may be kept")
			}
			return render(t, a)
		}
		if got := dnsd(); !strings.Contains(got, `"synced=false" "state=listing" "apps=0"`) {
			t.Errorf("before the first listing: %s", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { f.Run(ctx) })
		synctest.Wait()
		time.Sleep(7 * time.Second)
		got := dnsd()
		if !strings.Contains(got, `"source=quiet:`) || !strings.Contains(got, `"synced=true" "state=live" "age=7s" "apps=6"`) {
			t.Errorf("7 s after the listing: %s", got)
		}
		time.Sleep(63 * time.Second)
		if got := dnsd(); !strings.Contains(got, `"state=stale" "age=70s"`) || !strings.Contains(got, "; 3 ") {
			t.Errorf("70 s after the listing: %s", got)
		}
		anonymous := New(reg, Config{TTL: 5, Version: "1.2", Anonymous: true})
		if got := render(t, ask(t, anonymous, view, m1, "_dnsd.internal", dns.TypeTXT)); strings.Contains(got, "version=") ||
			strings.Contains(got, "source=") || !strings.Contains(got, `"synced=true" "state=stale" "age=70s" "apps=6"`) {
			t.Errorf("without identity: %s", got)
		}
		cancel()
		wg.Wait()
	})
}
