// Package wire reads and writes DNS messages as bytes, without building
// anything in between: cursors over what came in, appends to what goes out.
package wire

import "encoding/binary"

// EDE is an extended DNS error (RFC 8914): a code and a sentence for whoever
// reads dig's output.
type EDE struct {
	Code uint16
	Text string
}

// Sections of a message, in their order (RFC 1035, section 4.1).
const (
	Answer = iota
	Authority
	Additional
)

// ToQuestion is the compression pointer to the question's name, which always
// stands right behind the header (RFC 1035, section 4.1.4).
const ToQuestion = 0xc000 | HeaderLen

const (
	recordLen = 12 // pointer, type, class, TTL, length
	optionLen = 4  // code, length
	edeLen    = optionLen + 2
)

// Reply writes one response from front to back, never longer than its limit.
// It is reused from one response to the next.
type Reply struct {
	Flags uint16 // the header's second word but for the code; written by Finish

	// Rcode is the response code. What of it exceeds four bits is the OPT's to
	// carry (RFC 6891, section 6.1.3).
	Rcode uint16

	buf    []byte
	limit  int // of the whole message
	room   int // limit without what is reserved for the OPT
	counts [3]uint16
}

// Begin starts a response in dst's storage, which should have room for limit
// bytes: header and question, both of which must fit into limit.
func (w *Reply) Begin(dst []byte, id uint16, question []byte, limit int) {
	*w = Reply{limit: limit, room: limit}
	b := append(dst[:0], byte(id>>8), byte(id), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if len(question) > 0 {
		b[5] = 1
	}
	w.buf = append(b, question...)
}

// Reserve sets n more bytes aside for the OPT, which records do not get; none where
// fewer are left.
func (w *Reply) Reserve(n int) {
	if len(w.buf)+n <= w.room {
		w.room -= n
	}
}

// Room is how many bytes are left for records.
func (w *Reply) Room() int { return w.room - len(w.buf) }

// RecordLen is what a record with a compressed owner needs.
func RecordLen(rdata []byte) int { return recordLen + len(rdata) }

// Record appends a record whose owner is the name that pointer points to. It
// reports false, and appends nothing, where the record does not fit.
func (w *Reply) Record(section int, pointer, typ, class uint16, ttl uint32, rdata []byte) bool {
	if RecordLen(rdata) > w.Room() {
		return false
	}
	w.buf = AppendRecord(w.buf, pointer, typ, class, ttl, rdata)
	w.counts[section]++
	return true
}

// AppendRecord appends a record whose owner is the name that pointer points to.
func AppendRecord(dst []byte, pointer, typ, class uint16, ttl uint32, rdata []byte) []byte {
	dst = append(dst, byte(pointer>>8), byte(pointer), byte(typ>>8), byte(typ), byte(class>>8), byte(class),
		byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(len(rdata)>>8), byte(len(rdata)))
	return append(dst, rdata...)
}

// Packed appends the n records that AppendRecord has put together in packed,
// those from offset first on before those before it. Each has size bytes; a size
// of zero says that they stay together. It reports false where not all fit, and
// appends those that do.
func (w *Reply) Packed(section int, packed []byte, first, size int, n uint16) bool {
	room := w.Room()
	if len(packed) <= room {
		w.buf = append(append(w.buf, packed[first:]...), packed[:first]...)
		w.counts[section] += n
		return true
	}
	if size == 0 {
		return false
	}
	fit := room / size
	w.counts[section] += uint16(fit)
	behind := packed[first:min(first+fit*size, len(packed))]
	w.buf = append(w.buf, behind...)
	w.buf = append(w.buf, packed[:fit*size-len(behind)]...)
	return false
}

// Splice lets add append whole records of its own. It gets the message so far
// and how long that may get, and returns the message and how many records of
// each section it added.
func (w *Reply) Splice(add func(msg []byte, limit int) ([]byte, [3]uint16)) {
	msg, counts := add(w.buf, w.room)
	w.buf = msg
	for i, n := range counts {
		w.counts[i] += n
	}
}

// OPTLen is what an OPT record without options needs: root, type, size, code and
// flags, length.
const OPTLen = 11

// NSIDLen and EDELen are what those options add to an OPT record.
func NSIDLen(id string) int  { return optionLen + len(id) }
func EDELen(text string) int { return edeLen + len(text) }

// OPT appends the OPT record to the additional section, in the bytes reserved
// for it and whatever the records left free. nsid is left out where it is
// empty. The errors' codes come before their texts: where space is tight the
// texts go first, then the last codes (RFC 8914, section 3, drops EDE before
// data). Without room for an OPT there is none.
func (w *Reply) OPT(udpSize uint16, do bool, nsid string, errors []EDE) {
	w.room = w.limit
	if w.Room() < OPTLen {
		return
	}
	start := len(w.buf)
	w.buf = append(w.buf, 0, 0, typeOPT, byte(udpSize>>8), byte(udpSize), byte(w.Rcode>>4), 0, 0, 0, 0, 0)
	if do {
		w.buf[start+7] = flagDO >> 8 // the client's bit comes back (RFC 3225, section 3)
	}
	if nsid != "" && NSIDLen(nsid) <= w.Room() {
		w.option(optionNSID, len(nsid))
		w.buf = append(w.buf, nsid...)
	}
	if most := w.Room() / edeLen; len(errors) > most {
		errors = errors[:most]
	}
	texts := w.Room() - len(errors)*edeLen
	for _, e := range errors {
		text := e.Text
		if len(text) > texts {
			text = ""
		}
		texts -= len(text)
		w.option(optionEDE, 2+len(text))
		w.buf = append(w.buf, byte(e.Code>>8), byte(e.Code))
		w.buf = append(w.buf, text...)
	}
	binary.BigEndian.PutUint16(w.buf[start+OPTLen-2:], uint16(len(w.buf)-start-OPTLen))
	w.counts[Additional]++
}

func (w *Reply) option(code, n int) {
	w.buf = append(w.buf, byte(code>>8), byte(code), byte(n>>8), byte(n))
}

// Finish writes the header and returns the message.
func (w *Reply) Finish() []byte {
	binary.BigEndian.PutUint16(w.buf[2:], w.Flags&^rcodeMask|w.Rcode&rcodeMask)
	for i, n := range w.counts {
		binary.BigEndian.PutUint16(w.buf[6+2*i:], n)
	}
	return w.buf
}
