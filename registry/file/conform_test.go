package file

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow/followtest"
)

func TestConform(t *testing.T) {
	followtest.Conform(t, func(t *testing.T) followtest.Fixture {
		path := filepath.Join(t.TempDir(), "registry.json")
		var mu sync.Mutex
		objects := map[registry.Key]string{}
		save := func() {
			var lists [len(followtest.Lists)][]string
			for key, text := range objects {
				lists[key.Kind] = append(lists[key.Kind], text)
			}
			var text []string
			for kind, name := range followtest.Lists {
				text = append(text, `"`+name+`": [`+strings.Join(lists[kind], ",\n")+`]`)
			}
			replace(t, path, "{"+strings.Join(text, ",\n")+"}\n")
		}
		save()
		return followtest.Fixture{
			Source: New(Config{Path: path, Poll: 20 * time.Millisecond}, slog.New(slog.DiscardHandler)),
			Put: func(put ...registry.Object) {
				mu.Lock()
				defer mu.Unlock()
				for _, o := range put {
					objects[o.Key()] = followtest.JSON(o)
				}
				save()
			},
			Delete: func(keys ...registry.Key) {
				mu.Lock()
				defer mu.Unlock()
				for _, key := range keys {
					delete(objects, key)
				}
				save()
			},
			Break: func() { ok(t, os.Remove(path)) }, Mend: save, Waits: true,
			Silence: 60 * time.Millisecond, Apart: true,
		}
	})
}
