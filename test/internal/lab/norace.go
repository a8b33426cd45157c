//go:build !race

package lab

// Race says that the test runs with the race detector; then dnsd does too.
const Race = false
