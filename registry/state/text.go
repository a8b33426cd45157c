package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"dnsd/registry/machinejson"
	"dnsd/registry/regular"
)

// textPrefix begins the last line of a file of version 1, which is a registry file
// followed by that line:
//
//	#dnsd-state 1 <RFC 3339 time> sha256:<of all before> <source>
//
// Such files are read, so that an upgrade keeps what is known, and not written.
const textPrefix = firstLine + "1 "

func readText(r io.Reader) (*Contents, error) {
	data, err := regular.ReadAll(r, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	data, trailer := splitTrailer(data)
	fields := strings.SplitN(strings.TrimPrefix(trailer, textPrefix), " ", 3)
	if !strings.HasPrefix(trailer, textPrefix) || len(fields) != 3 {
		return nil, errors.New("neither its first line nor its last is that of a state: it was cut short, or is none")
	}
	sum := sha256.Sum256(data)
	if fields[1] != "sha256:"+hex.EncodeToString(sum[:]) {
		return nil, errDamaged
	}
	saved, err := time.Parse(time.RFC3339, fields[0])
	if err != nil {
		return nil, fmt.Errorf("its time cannot be read: %w", err)
	}
	items, err := machinejson.Parse(data)
	return &Contents{Source: fields[2], Saved: saved, items: items}, err
}

// splitTrailer cuts the last line off.
func splitTrailer(data []byte) (body []byte, trailer string) {
	end := bytes.TrimSuffix(data, []byte("\n"))
	if len(end) == len(data) {
		return data, ""
	}
	i := bytes.LastIndexByte(end, '\n') + 1
	return data[:i], string(end[i:])
}
