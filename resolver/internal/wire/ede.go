// Package wire reads and writes DNS messages as bytes, without building
// anything in between: cursors over what came in, appends to what goes out.
package wire

// EDE is an extended DNS error (RFC 8914): a code and a sentence for whoever
// reads dig's output.
type EDE struct {
	Code uint16
	Text string
}
