package follow

import (
	"fmt"
	"slices"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// An app that came after a listing began is none that the listing lacks, and
// hides none.
func TestAListingDoesNotLackWhatCameLater(t *testing.T) {
	put := func(app string) registry.Item {
		return registry.Put(registrytest.Machine(t, "m1", registrytest.InApp(app)))
	}
	r := registry.New()
	r.Apply([]registry.Item{put("a"), put("c")})
	l := newListing(r.Snapshot())
	r.Apply([]registry.Item{put("b")})
	losses, _ := l.losses(r.Snapshot())
	var lost []string
	for key := range losses {
		lost = append(lost, key.Name)
	}
	if slices.Sort(lost); fmt.Sprint(lost) != "[a c]" {
		t.Errorf("an empty listing lacks %v, want a and c", lost)
	}
}

// What is listed as it is known leaves nothing to apply, unless it is listed twice:
// then the first one may have differed.
func TestAListingKeepsWhatDiffers(t *testing.T) {
	items := append(fleetOf(t, 130), registry.Put(&registry.App{Name: "web", Network: 24}))
	r := registry.New()
	r.Apply(items)
	l := newListing(r.Snapshot())
	for i := range items {
		l.add(&items[i])
	}
	if len(l.puts) != 0 {
		t.Fatalf("%d of %d objects are to be applied again", len(l.puts), len(items))
	}
	other := registry.Put(&registry.App{Name: "Web", Network: 24})
	for i, item := range []*registry.Item{&items[0], &items[64], &items[129], &items[130], &other} {
		if l.add(item); len(l.puts) != i+1 {
			t.Errorf("%s, listed once more, is not to be applied", item.About())
		}
	}
	again := newListing(r.Snapshot())
	if again.add(&other); len(again.puts) != 1 {
		t.Error("an app that is spelled otherwise is not to be applied")
	}
}
