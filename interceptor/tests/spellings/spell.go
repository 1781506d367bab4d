// Writes the key as Go's encoders do: a line for each, its name and the bytes in hexadecimal.
package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"net/url"
	"os"
	"strconv"
	"strings"
)

func say(name, value string) { fmt.Println(name, hex.EncodeToString([]byte(value))) }

func main() {
	key := os.Getenv("KEY")
	more := []byte(strings.Repeat("Authorization: Bearer "+key+"\r\n", 3))
	marshalled, _ := json.Marshal(map[string]string{"key": key})
	again, _ := json.Marshal(string(marshalled))
	data, _ := json.Marshal(more)
	say("json", string(marshalled))
	say("json-twice", string(again))
	say("json-bytes", string(data))
	say("quote", strconv.Quote(key))
	say("query", url.QueryEscape(key))
	say("query-twice", url.QueryEscape(url.QueryEscape(key)))
	say("path", url.PathEscape(key))
	say("values", url.Values{"key": {key}}.Encode())
	say("html", html.EscapeString(key))
	say("template-html", template.HTMLEscapeString(key))
	say("template-js", template.JSEscapeString(key))
	say("template-url", template.URLQueryEscaper(key))
	var page strings.Builder
	template.Must(template.New("").Parse(`<p a={{.}}>{{.}}</p>`)).Execute(&page, key)
	say("template", page.String())
	say("base64", base64.StdEncoding.EncodeToString(more))
	say("base64-url", base64.RawURLEncoding.EncodeToString(more))
	page.Reset()
	template.Must(template.New("").Parse(`<p>{{.}}</p>`)).
		Execute(&page, base64.StdEncoding.EncodeToString(more))
	say("base64-template", page.String())
	say("hex", hex.EncodeToString([]byte(key)))
	say("hex-spaced", fmt.Sprintf("% x", key))
	say("hex-upper", fmt.Sprintf("% X", key))
	say("hex-prefixed", fmt.Sprintf("% #x", key))
	say("go-bytes", fmt.Sprintf("%#v", []byte(key)))
}
