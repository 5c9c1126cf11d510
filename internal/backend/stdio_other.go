//go:build !linux

package backend

import "syscall"

// processAttributes puts a process into a group of its own.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
