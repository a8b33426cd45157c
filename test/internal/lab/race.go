//go:build race

package lab

// raceEnabled says that the test runs with the race detector; then dnsd does too.
const raceEnabled = true
