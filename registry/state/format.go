// Package state keeps the last known state of a registry in a directory: a file
// with everything, to which changes are appended, and the file before it.
//
// A file begins with a line of text, "#dnsd-state 2". Blocks follow:
//
//	4 bytes   length of the payload, little endian
//	4 bytes   checksum, little endian
//	payload   its first byte is the kind of the block: begin, objects or end
//
// The checksum is the CRC-32C of the lengths and payloads of all blocks up to this
// one. So a block is whole only behind the blocks it was written behind, and can
// be checked with nothing but the checksum of the one before it.
//
// A begin block is the first and holds the source's identity and random bytes,
// which tell the file from all others. Objects blocks up to an end block are one
// batch, which is used as a whole or not at all; the end block has the time as of
// which it is right. The first batch is everything, each later one what has changed
// since. What follows the last end block, or a block that is not whole or is of
// another kind, is ignored: it is what a write was cut off at. A file without a whole
// first batch cannot be used.
//
// All numbers in payloads are varints (encoding/binary), and strings a length and bytes.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// version is the format's number. A change that an older dnsd could not read needs
// another one.
const version = 2

// The first line of a file is firstLine, the version, and a line feed.
const firstLine = "#dnsd-state "

const (
	kindBegin   = 'B'
	kindObjects = 'O'
	kindEnd     = 'E'
)

const (
	headerSize = 8

	// blockSize is where a block ends: some two thousand machines, so that what they
	// have in common is written once, and all processors have something to read.
	blockSize = 64 << 10

	// maxBlock is the most that a length may say: blockSize and one machine with
	// all the metadata that it may have are less.
	maxBlock = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockWriter writes a file.
type blockWriter struct {
	w    io.Writer
	sum  uint32 // the checksum of the last block
	size int64  // of the file
	buf  []byte
}

func (w *blockWriter) begin(source string, random uint64) error {
	n, err := fmt.Fprintf(w.w, "%s%d\n", firstLine, version)
	w.size += int64(n)
	if err != nil {
		return err
	}
	body := appendString(nil, source)
	return w.block(kindBegin, binary.LittleEndian.AppendUint64(body, random))
}

// block writes a block at once, so that a write that fails leaves the part of one behind.
// One that is too long to be read again is not begun.
func (w *blockWriter) block(kind byte, body []byte) error {
	if n := 1 + len(body); n > maxBlock {
		return fmt.Errorf("a block of %d bytes: at most %d can be read", n, maxBlock)
	}
	b := append(w.buf[:0], make([]byte, headerSize)...)
	b = append(append(b, kind), body...)
	w.buf = b
	binary.LittleEndian.PutUint32(b, uint32(len(b)-headerSize))
	sum := checksum(w.sum, b[:4], b[headerSize:])
	binary.LittleEndian.PutUint32(b[4:], sum)
	n, err := w.w.Write(b)
	w.size += int64(n)
	w.sum = sum
	return err
}

// checksum returns a block's checksum; before is that of the block before.
func checksum(before uint32, length, payload []byte) uint32 {
	return crc32.Update(crc32.Update(before, castagnoli, length), castagnoli, payload)
}

// place is where a block is.
type place struct {
	offset int64 // of the payload
	length uint32
	before uint32 // the checksum of the block before
	sum    uint32
}

// read returns the payload of a block, in buf where it has room.
func (p *place) read(r io.ReaderAt, buf []byte) ([]byte, error) {
	n := int(p.length)
	if cap(buf) < n {
		buf = make([]byte, max(n, 2*blockSize))
	}
	buf = buf[:n]
	if _, err := r.ReadAt(buf, p.offset); err != nil {
		return buf, err
	}
	if checksum(p.before, binary.LittleEndian.AppendUint32(nil, p.length), buf) != p.sum {
		return buf, errDamaged
	}
	return buf, nil
}

var (
	errDamaged = errors.New("its checksum does not match: it is damaged")
	errShort   = errors.New("it is cut short")
)

// scan finds the blocks of what follows the first line, which has offset bytes, and
// calls found with each. The error, of found or its own, says what ended it, nil for
// the end of the file.
func scan(r io.Reader, offset int64, found func(p place, payload []byte) error) error {
	var header [headerSize]byte
	buf := make([]byte, 2*blockSize)
	sum := uint32(0)
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return errShort
		}
		length := binary.LittleEndian.Uint32(header[:])
		if length == 0 || length > maxBlock {
			return errDamaged
		}
		if int(length) > len(buf) {
			buf = make([]byte, length)
		}
		payload := buf[:length]
		if _, err := io.ReadFull(r, payload); err != nil {
			return errShort
		}
		p := place{offset + headerSize, length, sum, binary.LittleEndian.Uint32(header[4:])}
		if checksum(sum, header[:4], payload) != p.sum {
			return errDamaged
		}
		if err := found(p, payload); err != nil {
			return err
		}
		sum, offset = p.sum, p.offset+int64(length)
	}
}

// versionOf returns the version that a first line says, 0 for another line.
func versionOf(line string) int {
	number, ok := strings.CutPrefix(line, firstLine)
	if !ok {
		return 0
	}
	v, err := strconv.Atoi(strings.TrimSuffix(number, "\n"))
	if err != nil || v < 1 {
		return 0
	}
	return v
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
