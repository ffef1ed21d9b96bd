package banger_test

import (
	"fmt"
	"testing"

	"banger"
)

func TestParsePublished(t *testing.T) {
	for text, want := range map[string]string{
		"80": "80", "8080:80": "8080:80", "8080:80/tcp": "8080:80", "53/udp": "53/udp", "0:80": "80", ":80": "80",
		"127.0.0.1:8080:80": "127.0.0.1:8080:80", "[::1]:5353:53/udp": "[::1]:5353:53/udp", "127.0.0.1::80": "127.0.0.1:0:80",
	} {
		p, err := banger.ParsePublished(text)
		if err != nil || p.String() != want || p.Check() != nil {
			t.Errorf("%s: %s, %v, %v", text, p, err, p.Check())
		}
		if again, err := banger.ParsePublished(p.String()); err != nil || again != p {
			t.Errorf("%s: written as %s, read as %+v, %v", text, p, again, err)
		}
	}
	for _, text := range []string{"", "x", "0", "65536", "80/sctp", "1-2", "8000-8001:80", "host:1:2", "1:2:3:4", "8080:", "-1:80", "a:80"} {
		if p, err := banger.ParsePublished(text); banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%q is %+v, %v", text, p, err)
		}
	}
	for _, p := range []banger.Published{{}, {Guest: 80}, {Guest: 80, Protocol: "x"}, {Guest: 80, Protocol: "tcp", Address: "here"}, {Guest: 80, Port: 70000, Protocol: "tcp"}} {
		if p.Check() == nil {
			t.Errorf("%+v may be", p)
		}
	}
}

func TestPublish(t *testing.T) {
	parse := func(texts ...string) (list []banger.Published) {
		for _, text := range texts {
			p, err := banger.ParsePublished(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		return list
	}
	have := parse("8080:80", "9090:80", "5353:53/udp")
	for _, c := range []struct {
		more, less []string
		want       string
		code       banger.Code
	}{
		{[]string{"8080:80", "80"}, nil, "[8080:80 9090:80 5353:53/udp]", ""},
		{[]string{"81:81"}, []string{"80"}, "[5353:53/udp 81:81]", ""},
		{nil, []string{"8080:80"}, "[9090:80 5353:53/udp]", ""},
		{nil, []string{"80", "53/udp"}, "[]", ""},
		{nil, []string{"53"}, "[]", banger.CodeNotFound},
		{nil, []string{"1:80"}, "[]", banger.CodeNotFound},
		{[]string{"8080:81"}, nil, "[]", banger.CodeConflict},
		{[]string{"127.0.0.1:8080:81"}, nil, "[]", banger.CodeConflict},
		{[]string{"8080:81/udp"}, nil, "[8080:80 9090:80 5353:53/udp 8080:81/udp]", ""},
	} {
		got, err := banger.Publish(have, parse(c.more...), parse(c.less...))
		if fmt.Sprint(got) != c.want || banger.CodeOf(err) != c.code {
			t.Errorf("%v more, %v less: %v, %v", c.more, c.less, got, err)
		}
	}
	var many []banger.Published
	for n := range banger.MaxPublished + 1 {
		many = append(many, banger.Published{Guest: n + 1, Protocol: "tcp"})
	}
	if _, err := banger.Publish(nil, many, nil); banger.CodeOf(err) != banger.CodeInvalid {
		t.Error(err)
	}
}
