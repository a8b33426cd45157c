package corrosion

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

const (
	// maxLine bounds one line of a stream, which is one row as JSON, in bytes: far
	// more than any row that can be used, and little enough for four streams.
	maxLine = 8 << 20

	// readBuffer is the most that the agent sends at once, in bytes, so that one
	// read is one batch.
	readBuffer = 64 << 10
)

// longLine is the error for a line longer than maxLine, which was skipped. It has
// the beginning and the end of the line, which hold the row id and the change id.
type longLine struct{ head, tail []byte }

func (*longLine) Error() string { return fmt.Sprintf("a line is longer than %d MiB", maxLine>>20) }

// tailSize holds the end of a change event, which is its id.
const tailSize = 64

// lineReader cuts a stream into lines of bounded length.
type lineReader struct {
	r    *bufio.Reader
	long []byte // the beginning of a line that the reader's buffer cannot hold
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, readBuffer)}
}

// next returns the next line without its end; it is valid until the next call.
// The last line may lack its end: an incomplete event does not parse. After a
// longLine, the reader continues with the following line.
func (l *lineReader) next() ([]byte, error) {
	if cap(l.long) > 4*readBuffer { // so that one long row does not hold its memory
		l.long = nil
	}
	l.long = l.long[:0]
	var over *longLine
	for {
		part, err := l.r.ReadSlice('\n')
		switch {
		case over != nil:
			over.tail = last(append(over.tail, last(part, tailSize)...), tailSize)
		case len(l.long)+len(part) > maxLine:
			over = &longLine{
				head: bytes.Clone(l.long[:readBuffer]),
				tail: last(append(bytes.Clone(last(l.long, tailSize)), part...), tailSize),
			}
			l.long = nil
		case err == nil && len(l.long) == 0: // the usual case, not copied
			return part[:len(part)-1], nil
		default:
			l.long = append(l.long, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == nil && over != nil:
			return nil, over
		case err == nil:
			return l.long[:len(l.long)-1], nil
		case err == io.EOF && over == nil && len(l.long) > 0:
			return l.long, nil
		}
		return nil, err
	}
}

// last returns the last n bytes of b, or all that there are.
func last(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// ready reports whether the next line can be read without blocking.
func (l *lineReader) ready() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// event is one line of a stream: exactly one of its fields is set, or none if the
// event is of an unknown kind.
type event struct {
	Columns []string          `json:"columns"`
	Row     []json.RawMessage `json:"row"`    // row id, cells
	Change  []json.RawMessage `json:"change"` // type, row id, cells, change id
	EOQ     *struct {
		ChangeID *uint64 `json:"change_id"`
	} `json:"eoq"`
	Error *string `json:"error"`
}

// cell is a value of SQLite as text: NULL is empty, a number is its literal, so
// that all 64 bits are exact, and a BLOB is its bytes.
type cell string

// UnmarshalJSON implements json.Unmarshaler.
func (c *cell) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '"':
		if bytes.IndexByte(b, '\\') < 0 && utf8.Valid(b) { // the usual case: json would take a third of a listing's time
			*c = cell(b[1 : len(b)-1])
			return nil
		}
		var s string
		err := json.Unmarshal(b, &s)
		*c = cell(s)
		return err
	case '[': // the agent writes a BLOB as a list of numbers
		var blob []uint8
		err := json.Unmarshal(b, &blob)
		*c = cell(blob)
		return err
	case '{':
		return errors.New("a cell is a JSON object")
	case 'n':
		*c = ""
	default:
		*c = cell(b)
	}
	return nil
}

// parseID reads a row id or change id: an unsigned number of 64 bits.
func parseID(b json.RawMessage) (uint64, error) {
	return strconv.ParseUint(string(b), 10, 64)
}

// rowOf returns the parts of a row event.
func rowOf(parts []json.RawMessage) (id uint64, cells json.RawMessage, err error) {
	if len(parts) != 2 {
		return 0, nil, fmt.Errorf("a row event has %d parts, want 2", len(parts))
	}
	id, err = parseID(parts[0])
	return id, parts[1], err
}

// change is a change event.
type change struct {
	row, id uint64
	gone    bool // the row is deleted
	cells   json.RawMessage
}

func changeOf(parts []json.RawMessage) (c change, err error) {
	if len(parts) != 4 {
		return c, fmt.Errorf("a change event has %d parts, want 4", len(parts))
	}
	switch string(parts[0]) {
	case `"insert"`, `"update"`:
	case `"delete"`:
		c.gone = true
	default:
		return c, fmt.Errorf("a change event is of type %s", parts[0])
	}
	if c.row, err = parseID(parts[1]); err != nil {
		return c, err
	}
	c.cells = parts[2]
	c.id, err = parseID(parts[3])
	return c, err
}

// head is the beginning of an event that is too long to be read.
type head struct {
	kind  string // row or change
	typ   string // of a change: insert, update or delete
	row   uint64
	cells []cell // those before the long one
}

// headOf reads the beginning of an event.
func headOf(b []byte) (h head, ok bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	token := func() json.Token { t, _ := d.Token(); return t }
	if token() != json.Delim('{') {
		return h, false
	}
	h.kind, _ = token().(string)
	if token() != json.Delim('[') {
		return h, false
	}
	if h.kind == "change" {
		h.typ, _ = token().(string)
	}
	number, _ := token().(json.Number)
	var err error
	if h.row, err = parseID(json.RawMessage(number)); err != nil || token() != json.Delim('[') {
		return h, false
	}
	for d.More() {
		var c cell
		if d.Decode(&c) != nil {
			break
		}
		h.cells = append(h.cells, c)
	}
	return h, true
}

// changeID returns the id of a change event, of which tail is the end.
func changeID(tail []byte) (uint64, error) {
	tail = bytes.TrimRight(tail, "]}\n")
	return parseID(tail[bytes.LastIndexByte(tail, ',')+1:])
}
