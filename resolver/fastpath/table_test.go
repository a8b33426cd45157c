package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

var network = netip.MustParsePrefix("fdaa:0:18::/48")

// fake is a table in memory, without a kernel.
type fake struct {
	*Table
	memory
	graces int
	err    error
}

func newFake(blocks, buckets int) *fake {
	f := &fake{memory: memory{make([]byte, 8*generations), make([]byte, buckets*bucketSize), make([]byte, blocks*blockSize), make([]byte, stateSize)}}
	f.Table = newTable(f.memory, 1232, func() error { f.graces++; return f.err })
	return f
}

// answerTo returns an answer to a name of an app.
func (f *fake) answerTo(app string, records byte) *Answer {
	g, ok := f.Generation(network, app)
	if !ok {
		panic("closed")
	}
	name := append(append([]byte{byte(len(app))}, app...), 0)
	return &Answer{Network: network, Type: 28, Name: name, Generation: g, Answers: 1, Records: bytes.Repeat([]byte{records}, 28)}
}

// put puts an answer and places it.
func (f *fake) put(t *testing.T, a *Answer) {
	t.Helper()
	if !f.Put(a) {
		t.Fatal("an answer is not taken")
	}
	if err := f.insert(<-f.offers); err != nil {
		t.Fatal(err)
	}
}

// find returns the block of a question as the programs find it, nil for none.
func (f *fake) find(a *Answer) []byte {
	h := hash(f.seed, networkOf(a), a.Type, a.Name)
	first := h & uint64(len(f.memory.buckets)/bucketSize-1) * bucketSize
	for i := range uint64(bucketEntries) {
		entry := binary.LittleEndian.Uint64(f.memory.buckets[first+8*i:])
		if n := uint32(entry); n != 0 && entry>>32 == h>>32 {
			b := f.memory.blocks[(n-1)*blockSize:][:blockSize]
			if n := len(a.Name); bytes.Equal(b[:n], a.Name) && int(binary.LittleEndian.Uint16(b[offNameLen:])) == n {
				return b
			}
		}
	}
	return nil
}

func TestTable(t *testing.T) {
	f := newFake(16, 8)
	a := f.answerTo("app", 1)
	if a.Stands(Generation{}) {
		t.Error("an answer of another generation stands")
	}
	f.put(t, a)
	if b := f.find(a); b == nil || b[offRecords] != 1 {
		t.Fatalf("the answer is not found: %x", b)
	}
	if g, _ := f.Generation(network, "app"); !a.Stands(g) || f.placed.Load() != 1 {
		t.Error("the answer does not stand")
	}
	// Another socket has the same.
	same := f.answerTo("app", 1)
	f.put(t, same)
	if same.place.Load() != a.place.Load() || len(f.retired) != 0 {
		t.Error("an answer that is there is placed again")
	}
	// A change ends it. The next one takes its place, and the old block is not used again at once.
	f.Close(network, "app")
	if _, ok := f.Generation(network, "app"); ok {
		t.Error("there is a generation while the app changes")
	}
	f.Open()
	g, _ := f.Generation(network, "app")
	if a.Stands(g) {
		t.Error("the old answer stands")
	}
	next := f.answerTo("app", 2)
	f.put(t, next)
	if b := f.find(a); b == nil || b[offRecords] != 2 || f.placed.Load() != 1 || len(f.retired) != 1 {
		t.Errorf("the new answer is not in the place of the old one: %d placed, %d retired", f.placed.Load(), len(f.retired))
	}
	// What comes late, from before the change, does not take its place.
	f.put(t, same)
	if b := f.find(a); b[offRecords] != 2 {
		t.Error("an old answer takes the place of a new one")
	}
	// Neither does what is computed while the app changes.
	during := f.answerTo("app", 3)
	f.Close(network, "app")
	f.put(t, during)
	if b := f.find(a); b[offRecords] != 2 {
		t.Error("an answer is placed while its app changes")
	}
	f.Open()
}

// Apps that share a generation, or that one change names twice, end together, and
// are whole afterwards.
func TestGenerations(t *testing.T) {
	f := newFake(4, 2)
	var twin string
	for i := 0; twin == ""; i++ {
		if name := fmt.Sprint("twin", i); f.slotOf(network, name) == f.slotOf(network, "app") {
			twin = name
		}
	}
	first, _ := f.Generation(network, "app")
	f.Close(network, "app")
	f.Close(network, twin)
	f.Close(network, "app")
	if _, ok := f.Generation(network, twin); ok {
		t.Error("closed twice, it is open")
	}
	f.Open()
	second, ok := f.Generation(network, twin)
	if !ok || second == first {
		t.Errorf("after the change: %v, %t", second, ok)
	}
	if again, ok := f.Generation(network, "app"); !ok || again != second {
		t.Error("apps of one slot have different generations")
	}
	f.Open() // of nothing
	if again, ok := f.Generation(network, "app"); !ok || again != second {
		t.Error("opening nothing changes something")
	}
	other, _ := f.Generation(netip.MustParsePrefix("fdaa:0:19::/48"), "app")
	if other.slot == second.slot && f.slotOf(netip.MustParsePrefix("fdaa:0:20::/48"), "app") == second.slot {
		t.Error("the network does not count")
	}
	f.CloseAll()
	if _, ok := f.Generation(network, "other"); ok {
		t.Error("there is a generation while all changes")
	}
	f.Open()
	if third, ok := f.Generation(network, "app"); !ok || third == second {
		t.Error("a change of all ends nothing")
	}
}

// A block is used again only after nobody can read it any more; and where there are
// more answers than room, each gets its time.
func TestBlocksAreReusedAfterGrace(t *testing.T) {
	f := newFake(16, 8)
	read := map[uint32]bool{} // linked at the last wait for the programs, or since
	known := map[*place]bool{}
	f.grace = func() error {
		clear(read)
		for i := range f.Table.buckets {
			if n := uint32(f.Table.buckets[i].Load()); n != 0 {
				read[n-1] = true
			}
		}
		f.graces++
		return nil
	}
	for i := range 500 {
		f.Close(network, fmt.Sprint("app", i%3))
		f.Open()
		a := f.answerTo(fmt.Sprint("app", i%40), byte(i))
		f.put(t, a)
		p := a.place.Load()
		if p == nil || f.find(a) == nil || p.gone.Load() {
			t.Fatalf("answer %d is not there", i)
		}
		if read[p.block] && !known[p] { // not what is there and as good
			t.Fatalf("answer %d is written into a block that may still be read", i)
		}
		read[p.block], known[p] = true, true
		linked := 0
		for i := range f.Table.buckets {
			if n := uint32(f.Table.buckets[i].Load()); n != 0 {
				linked++
				if q := f.places[n-1]; q == nil || q.gone.Load() {
					t.Fatalf("an entry refers to a block that is not in use")
				}
			}
		}
		if linked != len(f.index) || int(f.placed.Load()) != linked {
			t.Fatalf("%d entries, %d in the index, %d counted", linked, len(f.index), f.placed.Load())
		}
	}
	if f.graces == 0 || f.graces > 200 {
		t.Errorf("%d waits for the programs in 500 answers", f.graces)
	}
	f.err = errors.New("no")
	f.grace = func() error { return f.err }
	for i := 0; ; i++ {
		if err := f.insert(f.answerTo(fmt.Sprint("more", i), 0)); errors.Is(err, f.err) {
			break
		}
		if i > 100 {
			t.Fatal("blocks are used again although nothing waits for the programs")
		}
	}
}

// Answers that the kernel cannot give are not offered again, and what finds no room in
// the queue is.
func TestPut(t *testing.T) {
	f := newFake(4, 2)
	for name, change := range map[string]func(*Answer){
		"long_name":   func(a *Answer) { a.Name = make([]byte, maxName+1) },
		"long":        func(a *Answer) { a.Records = make([]byte, maxRecords+1) },
		"empty":       func(a *Answer) { a.Records = nil },
		"long_OPT":    func(a *Answer) { a.OPT = make([]byte, maxOPT+1) },
		"odd_records": func(a *Answer) { a.Records, a.TurnLen = make([]byte, 30), 15 },
	} {
		a := f.answerTo("app", 1)
		change(a)
		if !f.Put(a) || len(f.offers) != 0 || !a.Stands(a.Generation) {
			t.Errorf("%s: the answer is taken, or offered again", name)
		}
	}
	for range maxOffers {
		if a := f.answerTo("app", 1); !f.Put(a) || !a.Stands(a.Generation) {
			t.Fatal("an answer is not taken")
		}
	}
	if f.Put(f.answerTo("app", 1)) {
		t.Error("the queue has no bound")
	}
}
