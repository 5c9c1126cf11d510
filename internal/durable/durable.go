// Package durable keeps files on disk whole, private, locked and watched. Everything
// that the program writes, except for the rows of a store, it writes here.
//
// A file is whole: it is written beside its place and renamed, so a reader and a crash
// find the file of before or the file of after ([Staged]). It is private: [Access] is the
// one rule for which files are read and which folders are written to. It is locked while
// it is edited ([Lock], [Access.Edit]), and read again when it changes ([Live]). What root
// makes belongs to the owner of the folder, so that a command that root runs leaves
// nothing that the server, which does not run as root, cannot open.
package durable
