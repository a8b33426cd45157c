//go:build linux && (amd64 || arm64)

package fastpath

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:embed kernel/answer.o
var object []byte

// kernelSide is the programs and what they share with dnsd.
type kernelSide struct {
	ethernet, plain *ebpf.Program
	addresses       *ebpf.Map // that questions may be sent to
	counters        *ebpf.Map
	outer, inner    *ebpf.Map // see grace

	memory memory
	close  func()

	mu   sync.Mutex
	last counts // guarded by mu
	done bool   // guarded by mu
}

// load makes the maps and loads the programs. blocks is a power of two.
func load(blocks int) (_ *kernelSide, err error) {
	if why := missing(); why != "" {
		return nil, errors.New(why)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("reading the program: %w", err)
	}
	for name, size := range map[string]uintptr{"blocks": blockSize, "buckets": bucketSize, "states": stateSize, "counters": unsafe.Sizeof(counts{})} {
		if m := spec.Maps[name]; m == nil || m.ValueSize != uint32(size) {
			return nil, fmt.Errorf("the program has other %s than dnsd: %v", name, m)
		}
	}
	// Twice as many entries as blocks: few buckets overflow.
	spec.Maps["blocks"].MaxEntries = uint32(blocks)
	spec.Maps["buckets"].MaxEntries = uint32(max(2*blocks/bucketEntries, 1))

	var closing []func() error
	k := &kernelSide{close: func() {
		for _, c := range closing {
			_ = c() // nothing is written there
		}
	}}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the program: %w", err)
	}
	closing = append(closing, func() error { all.Close(); return nil })
	k.ethernet, k.plain = all.Programs["ethernet"], all.Programs["plain"]
	k.addresses, k.counters = all.Maps["addresses"], all.Maps["counters"]
	one := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	if k.inner, err = ebpf.NewMap(one); err != nil {
		return nil, err
	}
	closing = append(closing, k.inner.Close)
	if k.outer, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: one}); err != nil {
		return nil, err
	}
	closing = append(closing, k.outer.Close)
	for _, part := range []struct {
		name string
		at   *[]byte
	}{{"gens", &k.memory.generations}, {"buckets", &k.memory.buckets}, {"blocks", &k.memory.blocks}, {"states", &k.memory.state}} {
		m := all.Maps[part.name]
		// The kernel's memory is whole pages.
		n, page := int(m.ValueSize()*m.MaxEntries()), unix.Getpagesize()
		b, err := unix.Mmap(m.FD(), 0, (n+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("mapping the program's memory: %w", err)
		}
		*part.at = b[:n:n]
	}
	return k, nil
}

// grace waits until no program reads what it had found before. Linux does that when
// a map of maps is changed (bpf(2) updates those only after a grace period of RCU, under which programs run), so
// one that no program uses is changed. Membarrier(2) would do the same, but not where
// a processor runs without ticks.
func (k *kernelSide) grace() error {
	if err := k.outer.Put(uint32(0), k.inner); err != nil {
		return fmt.Errorf("waiting for the programs: %w", err)
	}
	return nil
}

// counts sums what the processors have counted.
func (k *kernelSide) counts() counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done {
		return k.last
	}
	var each []counts
	if err := k.counters.Lookup(uint32(0), &each); err != nil {
		return k.last // a map of one element that is there: this cannot fail
	}
	var sum counts
	for _, c := range each {
		for i, n := range c.Results {
			sum.Results[i] += n
		}
		for i, n := range c.Types {
			sum.Types[i] += n
		}
	}
	k.last = sum
	return sum
}

// finish closes the programs and their maps. What they have counted stays known; their memory stays
// mapped, since resolvers may still look at generations.
func (k *kernelSide) finish() {
	k.counts()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.done {
		k.done = true
		k.close()
	}
}

// monotonic returns the time that leases are in.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // and no lease holds
	}
	return time.Duration(now.Nano())
}
