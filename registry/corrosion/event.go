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
	// maxLine bounds one line of a stream, which is one row as JSON: far more
	// than any row that means something here, and small enough that four
	// streams of nonsense do no harm.
	maxLine = 8 << 20

	// readBuffer is what the agent sends at once at most: one read is then
	// one batch.
	readBuffer = 64 << 10
)

// errLongLine is a line longer than maxLine. The line has been passed over.
var errLongLine = fmt.Errorf("a line is longer than %d MiB", maxLine>>20)

// lineReader cuts a stream into lines of bounded length.
type lineReader struct {
	r    *bufio.Reader
	long []byte // what has been read of a line that the reader's buffer cannot hold
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, readBuffer)}
}

// next returns the next line without its end; it is valid until the next call.
// The last line may lack its end: half an event does not parse. After
// errLongLine, the reader goes on with the line that follows.
func (l *lineReader) next() ([]byte, error) {
	if cap(l.long) > 4*readBuffer { // one long row must not hold its memory for ever
		l.long = nil
	}
	l.long = l.long[:0]
	var err error
	for {
		part, readErr := l.r.ReadSlice('\n')
		switch {
		case err != nil:
		case len(l.long)+len(part) > maxLine:
			err, l.long = errLongLine, nil
		case readErr == nil && len(l.long) == 0: // the usual case, not copied
			return part[:len(part)-1], nil
		default:
			l.long = append(l.long, part...)
		}
		switch {
		case readErr == bufio.ErrBufferFull:
			continue
		case err != nil:
			return nil, err
		case readErr == nil:
			return l.long[:len(l.long)-1], nil
		case readErr == io.EOF && len(l.long) > 0:
			return l.long, nil
		}
		return nil, readErr
	}
}

// ready reports whether a further line can be read without waiting.
func (l *lineReader) ready() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// event is one line of a stream: exactly one of its fields is set, or none for
// a kind of event that is not known here.
type event struct {
	Columns []string          `json:"columns"`
	Row     []json.RawMessage `json:"row"`    // row id, cells
	Change  []json.RawMessage `json:"change"` // type, row id, cells, change id
	EOQ     *struct {
		ChangeID *uint64 `json:"change_id"`
	} `json:"eoq"`
	Error *string `json:"error"`
}

// cell is a value of SQLite as text: NULL is empty, a number is its literal,
// so that all 64 bits of it are exact, and a BLOB is its bytes.
type cell string

// UnmarshalJSON implements json.Unmarshaler.
func (c *cell) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '"':
		if bytes.IndexByte(b, '\\') < 0 && utf8.Valid(b) { // nearly always, and a third of a listing's time otherwise
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

// rowOf takes a row event apart.
func rowOf(parts []json.RawMessage) (id uint64, cells json.RawMessage, err error) {
	if len(parts) != 2 {
		return 0, nil, fmt.Errorf("a row event has %d parts, want 2", len(parts))
	}
	id, err = parseID(parts[0])
	return id, parts[1], err
}

// change is a change event taken apart.
type change struct {
	row, id uint64
	gone    bool // the row is no longer there
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
