package main

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

const (
	// logPatience is how long whoever logs waits for the line to be written.
	logPatience = 50 * time.Millisecond
	// logFlush is how long the end of dnsd waits for the lines that are left.
	logFlush = 500 * time.Millisecond
	// logLines is how many lines wait for a reader that is behind.
	logLines = 1000
)

// logWriter writes log lines so that a reader who has stopped reading, of a pipe for
// instance, holds up nothing but the log: when one line has waited for too long, others
// are not waited for, and those beyond logLines are dropped and counted. Safe for
// concurrent use.
type logWriter struct {
	w       io.Writer
	lines   chan logLine
	behind  atomic.Bool   // lines are not waited for
	dropped atomic.Uint64 // in all
	ending  chan struct{}
	ended   chan struct{}
}

type logLine struct {
	text    []byte
	written chan struct{}
}

// newLogWriter returns a logWriter. Its run must be called, and end.
func newLogWriter(w io.Writer) *logWriter {
	return &logWriter{w: w, lines: make(chan logLine, logLines), ending: make(chan struct{}), ended: make(chan struct{})}
}

// Write implements io.Writer. It never fails.
func (l *logWriter) Write(text []byte) (int, error) {
	line := logLine{bytes.Clone(text), make(chan struct{})}
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
		return len(text), nil
	}
	if l.behind.Load() {
		return len(text), nil
	}
	late := time.NewTimer(logPatience)
	defer late.Stop()
	select {
	case <-line.written:
	case <-late.C:
		l.behind.Store(true)
	}
	return len(text), nil
}

// run writes lines until end.
func (l *logWriter) run() {
	defer close(l.ended)
	write := func(line logLine) {
		_, _ = l.w.Write(line.text) // there is nowhere to say it
		close(line.written)
		if len(l.lines) == 0 {
			l.behind.Store(false)
		}
	}
	for {
		select {
		case line := <-l.lines:
			write(line)
			continue
		default:
		}
		select {
		case line := <-l.lines:
			write(line)
		case <-l.ending:
			return
		}
	}
}

// end ends run once the lines that wait are written, and waits for that for a while.
func (l *logWriter) end() {
	close(l.ending)
	select {
	case <-l.ended:
	case <-time.After(logFlush):
	}
}
