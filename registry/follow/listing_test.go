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
