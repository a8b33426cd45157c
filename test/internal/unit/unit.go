// Package unit runs dnsd as systemd runs a unit of Type=notify with a socket unit and
// FileDescriptorStoreMax=. systemd is not needed: the protocols are those of
// sd_listen_fds(3) and sd_notify(3), spoken as it speaks them, with NotifyAccess=main.
package unit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Unit is a service. Its fields are set before Start.
type Unit struct {
	Path     string   // of the binary, looked at anew by each Start
	Args     []string // and the environment, with nothing else in it
	Env      []string
	Dir      string                // for the log and the socket of notifications
	Watchdog time.Duration         // WatchdogSec=; 0: none
	Sockets  []*os.File            // of the socket unit, by their names
	NoStore  bool                  // FileDescriptorStoreMax=0
	Spawn    func(*exec.Cmd) error // nil: (*exec.Cmd).Start

	log  *os.File
	conn *net.UnixConn
	done chan struct{} // the listener for notifications has ended

	mu       sync.Mutex
	main     int           // the process that is the service
	ended    chan struct{} // it has
	how      syscall.WaitStatus
	all      []int // every process that was main
	store    []*os.File
	messages []string // of the main process
	strange  []string // of others
}

// Start starts the service, with what is in the store.
func (u *Unit) Start() error {
	if u.conn == nil {
		if err := u.listen(); err != nil {
			return err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	files := append(slices.Clone(u.Sockets), u.store...)
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0" "$@"`, u.Path}, u.Args...)...)
	cmd.Env = append(slices.Clone(u.Env), "NOTIFY_SOCKET="+u.conn.LocalAddr().String())
	if u.Watchdog > 0 {
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(u.Watchdog.Microseconds(), 10))
	}
	if len(files) > 0 {
		var names []string
		for _, f := range files {
			names = append(names, f.Name())
		}
		cmd.Env = append(cmd.Env, fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = u.log, u.log, files
	spawn := u.Spawn
	if spawn == nil {
		spawn = (*exec.Cmd).Start
	}
	if err := spawn(cmd); err != nil {
		return err
	}
	u.messages = nil
	u.follow(cmd.Process.Pid)
	return nil
}

// listen makes the socket for notifications, and this process the parent of those
// whose own has ended.
func (u *Unit) listen() (err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	if u.log, err = os.OpenFile(filepath.Join(u.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	u.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(u.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	u.done = make(chan struct{})
	go u.receive()
	return nil
}

// follow makes a process the main one. Needs mu.
func (u *Unit) follow(pid int) {
	ended := make(chan struct{})
	u.main, u.ended = pid, ended
	u.all = append(u.all, pid)
	go func() {
		defer close(ended)
		var how syscall.WaitStatus
		for {
			_, err := syscall.Wait4(pid, &how, 0, nil)
			switch {
			case err == nil:
				u.mu.Lock()
				u.how = how
				u.mu.Unlock()
				return
			case errors.Is(err, syscall.ECHILD): // not yet: its parent lives
				if syscall.Kill(pid, 0) != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
}

func (u *Unit) receive() {
	defer close(u.done)
	buf, oob := make([]byte, 4096), make([]byte, 8192)
	for {
		n, oobn, _, _, err := u.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		u.take(string(buf[:n]), oob[:oobn])
	}
}

// take obeys one message.
func (u *Unit) take(text string, oob []byte) {
	var files []int
	sender := 0
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			sender = int(cred.Pid)
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			files = append(files, fds...)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := strings.Split(text, "\n")
	value := func(name string) (string, bool) {
		for _, l := range lines {
			if v, ok := strings.CutPrefix(l, name+"="); ok {
				return v, true
			}
		}
		return "", false
	}
	name, _ := value("FDNAME")
	_, keep := value("FDSTORE")
	for _, fd := range files {
		if unix.CloseOnExec(fd); keep && sender == u.main && !u.NoStore {
			u.store = append(u.store, os.NewFile(uintptr(fd), name))
		} else {
			unix.Close(fd)
		}
	}
	if sender != u.main {
		u.strange = append(u.strange, text)
		return
	}
	if _, ok := value("FDSTOREREMOVE"); ok {
		u.store = slices.DeleteFunc(u.store, func(f *os.File) bool {
			if f.Name() != name {
				return false
			}
			f.Close()
			return true
		})
	}
	if pid, ok := value("MAINPID"); ok {
		if pid, err := strconv.Atoi(pid); err == nil {
			u.follow(pid)
		}
	}
	u.messages = append(u.messages, text)
}

// Await waits until the main process has said something with a line that begins like
// that, since it was started or took over.
func (u *Unit) Await(line string, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if u.Count(line) > 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%q is not said within %s; the log:\n%s", line, patience, u.Log())
		}
	}
}

// Count returns how many messages have a line that begins like that.
func (u *Unit) Count(line string) (n int) {
	for _, m := range u.Messages() {
		if strings.Contains("\n"+m, "\n"+line) {
			n++
		}
	}
	return n
}

// Messages returns what main processes have said since the last Start.
func (u *Unit) Messages() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.messages)
}

// Strange returns what processes have said that were not the main one.
func (u *Unit) Strange() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.strange)
}

// Main returns the id of the main process.
func (u *Unit) Main() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.main
}

// Stored returns how many sockets are kept.
func (u *Unit) Stored() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.store)
}

// Signal sends a signal to the main process.
func (u *Unit) Signal(s syscall.Signal) { syscall.Kill(u.Main(), s) }

// Wait waits until the main process has ended and says how.
func (u *Unit) Wait(patience time.Duration) (syscall.WaitStatus, error) {
	u.mu.Lock()
	ended := u.ended
	u.mu.Unlock()
	select {
	case <-ended:
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.how, nil
	case <-time.After(patience):
		return 0, fmt.Errorf("the process does not end within %s; the log:\n%s", patience, u.Log())
	}
}

// Replaced waits until another process than pid is the main one, and pid has ended.
func (u *Unit) Replaced(pid int, patience time.Duration) error {
	for end := time.Now().Add(patience); u.Main() == pid || syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d is not replaced within %s; the log:\n%s", pid, patience, u.Log())
		}
	}
	return nil
}

// Restart is systemctl restart.
func (u *Unit) Restart(patience time.Duration) error {
	u.Signal(syscall.SIGTERM)
	if how, err := u.Wait(patience); err != nil || how.ExitStatus() != 0 {
		return fmt.Errorf("it ended with status %d: %w", how.ExitStatus(), err)
	}
	if err := u.Start(); err != nil {
		return err
	}
	return u.Await("READY=1", patience)
}

// Log returns what was logged.
func (u *Unit) Log() string {
	text, _ := os.ReadFile(filepath.Join(u.Dir, "log"))
	return string(text)
}

// Close ends all processes at once and forgets the sockets.
func (u *Unit) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, pid := range u.all {
		for _, child := range Children(pid) {
			syscall.Kill(child, syscall.SIGKILL)
		}
	}
	for _, f := range u.store {
		f.Close()
	}
	u.store = nil
	if u.conn == nil {
		return
	}
	syscall.Kill(u.main, syscall.SIGKILL)
	u.mu.Unlock()
	<-u.ended
	u.conn.Close()
	<-u.done
	u.mu.Lock()
	u.log.Close()
}

// Children returns the processes that a process has started.
func Children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
