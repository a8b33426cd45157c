package state

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/regular"
)

// Contents is what a file holds.
type Contents struct {
	Path    string
	Source  string    // the identity of the source it was saved from
	Saved   time.Time // when it was right
	Cut     int64     // bytes at the file's end that are not used
	Why     error     // why they are not; nil: they are part of an unfinished batch
	fleets  []*registry.Fleet
	others  []registry.Object
	items   []registry.Item // of a file of version 1, instead of fleets and others
	info    fs.FileInfo     // the file as it was opened
	base    int64           // bytes up to the end of the first batch
	size    int64           // bytes up to the end of the last batch; 0 for a file of version 1, which is not appended to
	sum     uint32          // the checksum there
	batches int             // how many were appended to the first one
}

// Objects returns how many there are.
func (c *Contents) Objects() int {
	n := len(c.others) + len(c.items)
	for _, f := range c.fleets {
		n += len(f.Machines())
		if f.Registered() {
			n++
		}
	}
	return n
}

// Appended returns how many bytes of changes, in how many batches, the file holds
// behind its first batch.
func (c *Contents) Appended() (bytes int64, batches int) { return c.size - c.base, c.batches }

// Items returns the contents as what puts them into a registry.
func (c *Contents) Items() []registry.Item {
	items := slices.Clone(c.items)
	for _, f := range c.fleets {
		if f.Registered() {
			items = append(items, registry.Put(&registry.App{Name: f.Name(), Network: f.Network()}))
		}
		for _, m := range f.Machines() {
			items = append(items, registry.Put(m))
		}
	}
	for _, o := range c.others {
		items = append(items, registry.Put(o))
	}
	return items
}

// Restore makes an empty registry hold the contents.
func (c *Contents) Restore(r *registry.Registry) {
	if c.items != nil {
		r.Apply(c.items)
		return
	}
	r.Restore(c.fleets, c.others)
}

// Read reads a file of this version or one before. The error says why it cannot be
// used; there is never an object that was not saved, nor objects of a batch that is
// not whole.
func Read(path string) (c *Contents, err error) {
	f, err := regular.Open(path, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = contain.Run(func() error {
		c, err = read(f)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.Path = path
	return c, nil
}

func read(f *os.File) (*Contents, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(f, 2*blockSize)
	line, err := buffered.Peek(len(firstLine) + 20)
	if err != nil && err != io.EOF {
		return nil, err
	}
	first, _, _ := strings.Cut(string(line), "\n")
	switch v := versionOf(first); {
	case v == 0:
		c, err := readText(buffered)
		if err != nil {
			return nil, err
		}
		c.info = info
		return c, nil
	case v > version:
		return nil, fmt.Errorf("it has version %d of the format, and this dnsd reads up to %d: a newer dnsd wrote it", v, version)
	case v < version || first != fmt.Sprint(firstLine, version):
		return nil, errDamaged
	}
	if _, err := buffered.Discard(len(first) + 1); err != nil {
		return nil, errShort
	}
	c := &Contents{info: info}
	objects := c.scan(buffered, int64(len(first)+1))
	if c.size == 0 {
		return nil, cmp.Or(c.Why, errShort)
	}
	c.Cut = info.Size() - c.size
	if err := c.fill(f, objects); err != nil {
		return nil, err
	}
	return c, nil
}

// scan notes where batches end, and returns their objects blocks. Of the others, of
// which a file may have many, nothing is kept.
func (c *Contents) scan(r io.Reader, offset int64) (objects []place) {
	begun, whole := false, 0
	c.Why = scan(r, offset, func(p place, payload []byte) error {
		kind, d := payload[0], decoder{data: payload[1:]}
		switch {
		case !begun && kind == kindBegin:
			begun, c.Source = true, string(d.text())
		case begun && kind == kindObjects && len(payload) >= leastObjects:
			objects = append(objects, p)
		case begun && kind == kindEnd:
			saved := time.Unix(int64(d.number()), 0)
			if d.err != nil {
				return d.err
			}
			c.Saved, c.size, c.sum, whole = saved, p.offset+int64(p.length), p.sum, len(objects)
			if c.base == 0 {
				c.base = c.size
			} else {
				c.batches++
			}
		default:
			return errPayload
		}
		return d.err
	})
	return objects[:whole]
}

// block is the payload of a block as it was read.
type block struct {
	parts  []*part
	others []registry.Item
}

// fill reads the objects blocks, with all processors, and puts together what they say.
func (c *Contents) fill(r io.ReaderAt, places []place) error {
	blocks := make([]block, len(places))
	if err := inParallel(len(places), func() func(i int) error {
		var buf []byte
		return func(i int) (err error) {
			if buf, err = places[i].read(r, buf); err != nil {
				return err
			}
			d := decoder{data: buf[1:]}
			blocks[i].parts, blocks[i].others, err = d.objects()
			return err
		}
	}); err != nil {
		return err
	}
	c.others = joinOthers(blocks)
	fleets, err := joinFleets(blocks)
	c.fleets = fleets
	return err
}

// inParallel calls do with the numbers below n, from as many goroutines as there are
// processors, and returns an error of theirs. Each has a do of its own.
func inParallel(n int, newDo func() func(i int) error) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			errs[w] = contain.Run(func() error {
				do := newDo()
				for i := w; i < n; i += workers {
					if err := do(i); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
	return cmp.Or(errs...)
}

func joinOthers(blocks []block) []registry.Object {
	last := map[registry.Key]registry.Object{}
	for _, b := range blocks {
		for i := range b.others {
			if o := b.others[i].Object; o != nil {
				last[o.Key()] = o
			} else {
				delete(last, b.others[i].Key)
			}
		}
	}
	others := make([]registry.Object, 0, len(last))
	for _, o := range last {
		others = append(others, o)
	}
	return others
}

// joinFleets makes each fleet from all that blocks say of it, in their order.
func joinFleets(blocks []block) ([]*registry.Fleet, error) {
	type app struct {
		network registry.Network
		name    string
	}
	places := map[app]int{}
	var all [][]*part // in the order of the first batch, which is that of the database
	for _, b := range blocks {
		for _, p := range b.parts {
			key := app{p.network, registry.Lower(p.name)}
			i, ok := places[key]
			if !ok {
				i = len(all)
				places[key] = i
				all = append(all, nil)
			}
			all[i] = append(all[i], p)
		}
	}
	fleets := make([]*registry.Fleet, len(all))
	err := inParallel(len(all), func() func(i int) error {
		return func(i int) (err error) {
			fleets[i], err = join(all[i])
			return err
		}
	})
	return slices.DeleteFunc(fleets, func(f *registry.Fleet) bool { return f == nil }), err
}

// join makes a fleet from what was said of it, nil where nothing is left.
func join(parts []*part) (*registry.Fleet, error) {
	p := parts[len(parts)-1]
	machines := p.put
	if len(parts) > 1 { // of a fleet that nothing was said of before, nothing is gone
		last := map[string]*registry.Machine{}
		for _, p := range parts {
			for _, m := range p.put {
				last[registry.Lower(m.ID)] = m
			}
			for _, id := range p.gone {
				delete(last, id)
			}
		}
		machines = make([]*registry.Machine, 0, len(last))
		for _, m := range last {
			machines = append(machines, m)
		}
		slices.SortFunc(machines, func(a, b *registry.Machine) int {
			return strings.Compare(registry.Lower(a.ID), registry.Lower(b.ID))
		})
	}
	if len(machines) == 0 && !p.registered {
		return nil, nil
	}
	return registry.NewFleet(p.network, p.name, p.registered, machines)
}
