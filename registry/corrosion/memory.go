package corrosion

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"dnsd/registry/regular"
)

// memory keeps the knowledge in the state directory: dnsd may be restarted while
// the agent refills its database. A nil memory keeps nothing.
type memory struct {
	path, source string
}

const (
	memoryFile = "corrosion.known"

	// maxMemory bounds the file: 10,000 sites without gaps take 0.6 MB.
	maxMemory = regular.MaxSettings
)

// memoryText is the content of the file.
type memoryText struct {
	Source string     `json:"source"`
	Known  *knowledge `json:"known"`
}

func newMemory(dir, source string) *memory {
	if dir == "" {
		return nil
	}
	return &memory{filepath.Join(dir, memoryFile), source}
}

// load returns what was saved for the same source, nil for nothing.
func (m *memory) load() (*knowledge, error) {
	if m == nil {
		return nil, nil
	}
	os.Remove(m.path + ".tmp") // of a write that broke off
	data, err := regular.Read(m.path, maxMemory)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var text memoryText
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, fmt.Errorf("%s: %w", m.path, err)
	}
	if text.Source != m.source {
		return nil, nil
	}
	return text.Known, nil
}

// save replaces the file. It is not synced to disk: a power failure costs no more
// than the time that an unknown agent is waited for.
func (m *memory) save(k *knowledge) error {
	if m == nil {
		return nil
	}
	data, err := json.Marshal(memoryText{m.source, k})
	if err != nil {
		return err
	}
	temporary := m.path + ".tmp"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, m.path)
}
