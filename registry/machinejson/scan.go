package machinejson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sort"
	"strings"
)

// document is the text of a registry file. Once checked, it is walked in place:
// its values are spans of the text, so that nothing is copied, every value
// knows its line, and an app's machines need not follow its name.
type document struct {
	data  []byte
	lines []int // where each line begins; built when first asked for
}

// span is the value data[from:to].
type span struct{ from, to int }

// position returns the line and column of an offset, both counted from 1, the
// column in bytes as Go's own tools count it.
func (d *document) position(offset int) (line, column int) {
	if d.lines == nil {
		d.lines = []int{0}
		for i, c := range d.data {
			if c == '\n' {
				d.lines = append(d.lines, i+1)
			}
		}
	}
	line = sort.SearchInts(d.lines, offset+1)
	return line, offset - d.lines[line-1] + 1
}

// place returns the position of an offset as messages say it.
func (d *document) place(offset int) string {
	line, column := d.position(offset)
	return fmt.Sprintf("line %d, column %d", line, column)
}

// fail returns the error that ends the reading of the file.
func (d *document) fail(offset int, format string, args ...any) error {
	line, column := d.position(offset)
	return &Problem{line, column, fmt.Sprintf(format, args...)}
}

// expected says what belongs where the JSON decoder found something else; after
// is how the decoder's message ends.
var expected = []struct{ after, want string }{
	{"looking for beginning of value", "want a value"},
	{"looking for beginning of object key string", "want a name in double quotes (is there a comma too many?)"},
	{"after object key", `want ":"`},
	{"after object key:value pair", `want "," or "}"`},
	{"after array element", `want "," or "]"`},
	{"after top-level value", "want the end of the file"},
	{"in string literal", `want it escaped (\n, \t, \u0000)`},
	{"in string escape code", `want one of \" \\ \/ \b \f \n \r \t \u`},
}

// check says where the text is not JSON. Everything below assumes that it is.
func (d *document) check() error {
	if i := bytes.IndexFunc(d.data, func(r rune) bool { return !strings.ContainsRune(" \t\r\n", r) }); i < 0 {
		return d.fail(0, `the file is empty: an empty registry is {"apps": []}`)
	}
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(d.data, []byte(mark)) {
			return d.fail(0, "the file begins with a byte order mark: save it as UTF-8 without one (RFC 8259, section 8.1)")
		}
	}
	if json.Valid(d.data) {
		return nil
	}
	err := json.Unmarshal(d.data, new(any)) // which fails before it decodes anything
	offset, text := 0, err.Error()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) { // its offset is one past the byte that is wrong
		offset = min(max(int(syntax.Offset)-1, 0), len(d.data))
	}
	if strings.HasPrefix(text, "unexpected end") {
		return d.fail(len(d.data), "the file ends in the middle: is it cut short, or still being written?")
	}
	for _, e := range expected {
		if strings.HasSuffix(text, e.after) {
			text += ": " + e.want
		}
	}
	return d.fail(offset, "%s", text)
}

// root is the document's one value.
func (d *document) root() span {
	from := d.space(0)
	return span{from, d.end(from)}
}

// text returns a value's bytes, which belong to the document.
func (d *document) text(v span) []byte { return d.data[v.from:v.to] }

// kind names a value's type for messages.
func (d *document) kind(v span) string {
	switch d.data[v.from] {
	case '{':
		return "object"
	case '[':
		return "list"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	}
	return "number"
}

// str reads the string called field; null is an empty one.
func (d *document) str(field string, v span) (string, error) {
	switch kind := d.kind(v); kind {
	case "null":
		return "", nil
	case "string":
		var s string
		err := json.Unmarshal(d.text(v), &s)
		return s, err
	default:
		return "", fmt.Errorf("%s is a JSON %s, want a string", field, kind)
	}
}

// members yields the names and values of an object, in their order.
func (d *document) members(object span) iter.Seq2[string, span] {
	return func(yield func(string, span) bool) {
		for i := d.space(object.from + 1); d.data[i] != '}'; {
			name := span{i, d.end(i)}
			i = d.space(d.space(name.to) + 1) // past the colon
			value := span{i, d.end(i)}
			if !yield(d.name(name), value) {
				return
			}
			i = d.next(value.to)
		}
	}
}

// elements yields the values of a list; null is an empty one.
func (d *document) elements(list span) iter.Seq[span] {
	return func(yield func(span) bool) {
		if d.data[list.from] != '[' {
			return
		}
		for i := d.space(list.from + 1); d.data[i] != ']'; {
			value := span{i, d.end(i)}
			if !yield(value) {
				return
			}
			i = d.next(value.to)
		}
	}
}

// name unquotes a member's name, nearly always without an escape.
func (d *document) name(v span) string {
	raw := d.data[v.from+1 : v.to-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	s, _ := d.str("name", v)
	return s
}

// space returns where the first byte at or after i that is not white space is.
func (d *document) space(i int) int {
	for d.data[i] == ' ' || d.data[i] == '\n' || d.data[i] == '\t' || d.data[i] == '\r' {
		i++
	}
	return i
}

// next returns where the value or bracket after the one that ended at i begins.
func (d *document) next(i int) int {
	if i = d.space(i); d.data[i] == ',' {
		i = d.space(i + 1)
	}
	return i
}

// end returns where the value that begins at i ends.
func (d *document) end(i int) int {
	switch d.data[i] {
	case '"':
		return d.quote(i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch d.data[i] {
			case '"':
				i = d.quote(i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for i < len(d.data) && bytes.IndexByte([]byte(",]} \n\t\r"), d.data[i]) < 0 {
		i++
	}
	return i
}

// quote returns where the string that begins at i ends.
func (d *document) quote(i int) int {
	for i++; d.data[i] != '"'; i++ {
		if d.data[i] == '\\' {
			i++
		}
	}
	return i + 1
}
