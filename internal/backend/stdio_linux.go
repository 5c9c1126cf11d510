package backend

import "syscall"

// processAttributes puts a process into a group of its own, and ends it with this one, however this
// one ends.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
