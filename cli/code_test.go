package cli

import (
	"strings"
	"testing"
)

func TestJudgeForCode(t *testing.T) {
	debian := "has tar\nhas gzip\nhas curl\nhas apt-get\nglibc 2.36\nhas libstdc++\n"
	for name, c := range map[string]struct{ told, lacks, note, add string }{
		"Debian":       {debian, "", "", ""},
		"no curl":      {strings.Replace(debian, "has curl\n", "", 1), "", "neither curl nor wget", ""},
		"old":          {strings.Replace(debian, "2.36", "2.17", 1), "glibc 2.28 (it has glibc 2.17)", "", "apt-get install"},
		"unreadable":   {strings.Replace(debian, "2.36", "x", 1), "glibc 2.28 (it has glibc x)", "", "apt-get install"},
		"bare Alpine":  {"has tar\nhas gzip\nhas wget\nhas apk\nmusl\n", "libstdc++", "", "apk add libstdc++"},
		"Alpine":       {"has tar\nhas gzip\nhas wget\nhas apk\nmusl\nhas libstdc++\n", "", "", ""},
		"busybox":      {"has tar\nhas gzip\nhas wget\n", "a C library that VS Code knows, libstdc++", "", ""},
		"nothing told": {"", "tar, gzip, a C library that VS Code knows, libstdc++", "neither curl nor wget", ""},
	} {
		lacks, note, add := judgeForCode(c.told)
		if strings.Join(lacks, ", ") != c.lacks || !strings.Contains(note, c.note) || (note == "") != (c.note == "") || !strings.Contains(add, c.add) {
			t.Errorf("%s: lacks %q, note %q, add %q", name, lacks, note, add)
		}
	}
}
