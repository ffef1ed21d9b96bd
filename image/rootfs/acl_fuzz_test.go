package rootfs

import "testing"

// A list that is taken from its text is one that the kernel takes.
func FuzzACL(f *testing.F) {
	f.Add("user::rw-\nuser:joe:r--:1000\ngroup::r--\nmask::r--\nother::---\n")
	f.Add("u::7,g::-,o::r")
	f.Add("user::rwx,group::r-x,other:r--,mask::rwx#effective:r--,user:4294967295:r--")
	f.Fuzz(func(t *testing.T, text string) {
		acl, err := parseACL(text)
		if err != nil || acl == "" {
			return
		}
		if err := checkACL(acl); err != nil {
			t.Fatalf("%q became %x, %v", text, acl, err)
		}
		if perm, _ := aclPermissions(acl); perm > 0o777 {
			t.Errorf("%q stands for %o", text, perm)
		}
	})
}
