// Writes the key as Java's encoders do: a line for each, its name and the bytes in hexadecimal.
import java.net.URLEncoder;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HexFormat;

class Spell {
    static void say(String name, byte[] value) {
        System.out.println(name + " " + HexFormat.of().formatHex(value));
    }

    static void say(String name, String value) {
        say(name, value.getBytes(StandardCharsets.UTF_8));
    }

    static String escaped(String text, String symbols, String format) {
        StringBuilder out = new StringBuilder();
        for (char c : text.toCharArray()) {
            if (symbols.indexOf(c) >= 0) out.append(String.format(format, (int) c));
            else out.append(c == '"' || c == '\\' ? "\\" + c : String.valueOf(c));
        }
        return out.toString();
    }

    public static void main(String[] arguments) {
        String key = System.getenv("KEY");
        byte[] raw = key.getBytes(StandardCharsets.UTF_8);
        byte[] more = ("Authorization: Bearer " + key + "\r\n").repeat(3).getBytes();
        String encoded = URLEncoder.encode(key, StandardCharsets.UTF_8);
        say("url", encoded);
        say("url-twice", URLEncoder.encode(encoded, StandardCharsets.UTF_8));
        say("gson", escaped(key, "<>&='", "\\u%04x"));
        say("jackson-html", escaped(key, "<>&='+/", "\\u%04X"));
        say("properties", escaped(key, "=:#!", "\\%c"));
        say("base64", Base64.getEncoder().encode(more));
        say("base64-url", Base64.getUrlEncoder().withoutPadding().encode(more));
        say("base64-mime", Base64.getMimeEncoder().encode(more));
        say("base64-16", Base64.getMimeEncoder(16, "\n".getBytes()).encode(more));
        say("base64-gson", escaped(Base64.getEncoder().encodeToString(more), "=", "\\u%04x"));
        say("hex", HexFormat.of().formatHex(raw));
        say("hex-upper", HexFormat.of().withUpperCase().formatHex(raw));
        for (String between : new String[] {":", " ", "-", ", "}) {
            say("hex-by", HexFormat.ofDelimiter(between).formatHex(raw));
        }
        say("hex-prefix", HexFormat.ofDelimiter(", ").withPrefix("0x").formatHex(raw));
        say("utf-16", key.getBytes(Charset.forName("UTF-16LE")));
        say("utf-16be", key.getBytes(Charset.forName("UTF-16BE")));
    }
}
