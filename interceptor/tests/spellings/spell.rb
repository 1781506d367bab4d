# Writes the key as Ruby's encoders do: a line for each, its name and the bytes in hexadecimal.
require "base64"
require "cgi"
require "erb"
require "json"
require "uri"

key = ENV["KEY"]
more = "Authorization: Bearer #{key}\r\n"
say = ->(name, value) { puts "#{name} #{value.unpack1("H*")}" }

say.("json", JSON.generate({ key: key }))
say.("json-script-safe", JSON.generate({ key: key }, script_safe: true))
say.("json-twice", JSON.generate(JSON.generate({ key: key })))
say.("inspect", key.inspect)
say.("dump", key.dump)
say.("cgi", CGI.escape(key))
say.("cgi-twice", CGI.escape(CGI.escape(key)))
say.("component", ERB::Util.url_encode(key))
say.("form", URI.encode_www_form(key: key))
say.("html", CGI.escapeHTML(key))
say.("rails-json", key.gsub(/[<>&'+=\/]/) { |c| format("\\u%04x", c.ord) })
say.("base64", Base64.encode64(more * 3))
say.("base64-strict", Base64.strict_encode64(more))
say.("base64-url", Base64.urlsafe_encode64(more))
say.("base64-json", JSON.generate(Base64.encode64(more * 3)))
say.("base64-cgi", CGI.escape(Base64.encode64(more * 3)))
say.("hex", key.unpack1("H*"))
say.("hex-by", key.bytes.map { |b| format("%02x", b) }.join(":"))
say.("utf-16le", key.encode("UTF-16LE"))
say.("utf-16be", key.encode("UTF-16BE"))
