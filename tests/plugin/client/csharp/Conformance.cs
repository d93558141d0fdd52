// Drives plugin/client/csharp/Splatmend.cs for tests/plugin/client/csharp/test_csharp.py: a line in, a line out.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Threading;
using Splatmend;

static class Conformance
{
    const int Width = 24;
    const int Height = 16;

    static readonly Writer Json = new Writer();
    static Client client;

    static int Main()
    {
        CultureInfo.CurrentCulture = new CultureInfo("de-DE"); // 0,5: the wire must not care
        for (string line; (line = Console.ReadLine()) != null;)
        {
            string[] words = line.Split(' ');
            Console.WriteLine(Answer(words[0], words.Skip(1).ToArray()));
            Console.Out.Flush();
        }
        return 0;
    }

    static string Answer(string command, string[] words)
    {
        switch (command)
        {
            case "parse":
                return Parse(words[0]);
            case "open":
                return Open(words);
            case "wait":
                return client.WaitUntilUp(int.Parse(words[0])) ? "up" : "down";
            case "restore":
                return Restore(int.Parse(words[0]), words[1]);
            case "flow":
                return Flow(int.Parse(words[0]), int.Parse(words[1]), words[2] == "cut");
            case "misuse":
                return Misuse();
            case "state":
                return client.State.ToString();
            case "error":
                return client.LastError;
            case "counts":
                return string.Join(" ", client.Counts.Select(pair => pair.Key + "=" + pair.Value));
            case "stats":
                return client.Stats(5000);
            case "references":
                return client.ReferencesInUse.ToString();
            case "sockets":
                return Sockets();
            case "close":
                client.Dispose();
                client.Dispose();
                return Misuse();
            default:
                return "what?";
        }
    }

    static string Open(string[] words)
    {
        var options = new ClientOptions { Port = int.Parse(words[0]), Mode = words[1] };
        options.DeadlineMs = options.MaxAgeMs = double.Parse(words[2]);
        options.Token = words.Length > 3 && words[3] != "-" ? words[3] : "";
        options.References = words.Length > 4 && words[4] != "-" ? words[4] : "";
        options.ReferencePictures = words.Skip(5).Select(File.ReadAllBytes).ToArray();
        options.Stream = "C♯ \"test\"";
        client = new Client(options);
        return "opened";
    }

    // A client at work: every picture is its frame's negative, but for a first row without alpha

    static byte[] Pixels(int id, string format)
    {
        int size = format == "rgba16f" ? 8 : 4;
        var data = new byte[Width * Height * size];
        for (int i = Width * size; i < data.Length; i++)
        {
            if (size == 4)
                data[i] = (byte)(i % 4 == 3 ? 255 : id);
            else if (i % 2 == 1) // the upper half of 1 and of 0.25
                data[i] = (byte)(i % 8 == 7 ? 0x3c : 0x34);
        }
        return data;
    }

    static bool IsRight(Picture picture)
    {
        byte[] given = Pixels((int)picture.Id, picture.Format);
        if (picture.Length != given.Length || picture.Width != Width || picture.Origin != "bl")
            return false;
        for (int i = 0; i < given.Length; i++)
        {
            bool kept = i < given.Length / Height;
            int expected = given[i];
            if (picture.Format == "rgba8" && !kept && i % 4 != 3) expected = 255 - expected;
            if (picture.Format == "rgba16f" && expected == 0x34) expected = 0x3a; // 0.75
            if (picture.Pixels[i] != expected) return false;
        }
        return true;
    }

    static readonly Plane Color = new Plane { Name = "color", Origin = "bl", Alpha = "premul" };
    static readonly Frame Reused = new Frame { Width = Width, Height = Height, Planes = { Color } };
    static int frames;

    static Frame Next(string format)
    {
        Color.Format = format;
        Color.Data = Pixels(frames, format);
        Reused.Pts = 1000L * frames++;
        return Reused;
    }

    static string Restore(int count, string format)
    {
        int restored = 0, wrong = 0;
        long last = -1;
        Picture picture = null;
        for (int i = 0; i < count; i++)
        {
            if (!client.Restore(Next(format), ref picture)) continue;
            restored++;
            bool right = picture.Id == frames - 1 && picture.Pts == 1000 * picture.Id
                && picture.Id > last && IsRight(picture);
            last = picture.Id;
            if (!right) wrong++;
        }
        return "restored=" + restored + " wrong=" + wrong;
    }

    static string Flow(int count, int pauseMs, bool cuts)
    {
        int shown = 0, wrong = 0, raw = 0;
        long last = -1;
        Picture picture = null;
        for (int i = 0; i < count; i++)
        {
            int id = frames;
            Frame frame = Next("rgba8");
            frame.Cut = cuts;
            client.Submit(frame);
            frame.Cut = false;
            if (!client.TryGetLatest(ref picture))
                raw++;
            else if (picture.Id > last)
            {
                shown++;
                if (!IsRight(picture) || picture.Id > id) wrong++;
                last = picture.Id;
            }
            else if (picture.Id < last)
                wrong++;
            Thread.Sleep(pauseMs);
        }
        return "shown=" + shown + " wrong=" + wrong + " raw=" + raw;
    }

    static string Misuse()
    {
        Picture picture = null;
        Next("rgba8");
        var bad = new List<Frame>
        {
            null,
            new Frame(),
            new Frame { Width = -1, Height = 5, Planes = { Color } },
            new Frame { Width = Width, Height = Height + 1, Planes = { Color } },
            new Frame { Width = Width, Height = Height, Planes = { new Plane() } },
            new Frame { Width = Width, Height = Height, Planes = { Color, Color } },
            new Frame { Width = 1 << 14, Height = 1, Planes = { new Plane("color", "rgb8") } },
        };
        int taken = bad.Count(frame => client.Submit(frame) || client.Restore(frame, ref picture));
        return "taken=" + taken;
    }

    [DllImport("libc")]
    static extern int getsockopt(int fd, int level, int name, out int value, ref int size);

    // TCP sockets that send at once (TCP_NODELAY), and those that wait for acknowledgements

    static string Sockets()
    {
        int prompt = 0, delaying = 0;
        for (int fd = 0; fd < 1024; fd++)
        {
            int size = 4;
            if (getsockopt(fd, 6, 1, out int value, ref size) != 0) continue;
            if (value != 0) prompt++;
            else delaying++;
        }
        return "prompt=" + prompt + " delaying=" + delaying;
    }

    // Conformance: what was read, in the protocol's own words

    static string Parse(string hex)
    {
        var bytes = new byte[hex.Length / 2];
        for (int i = 0; i < bytes.Length; i++)
            bytes[i] = Convert.ToByte(hex.Substring(2 * i, 2), 16);
        try
        {
            Message message = MessageReader.Parse(bytes);
            List<Plane> planes = message.Frame.Planes;
            Write(message);
            byte[] head = Json.ToArray();
            int parts = BitConverter.ToInt32(head, 4);
            string header = System.Text.Encoding.UTF8.GetString(head, 8 + 4 * parts,
                head.Length - 8 - 4 * parts);
            string data = string.Concat(planes.Take(parts - 1).Select(
                plane => BitConverter.ToString(plane.Data, 0, plane.Length) + ","));
            return "read " + header + "\t" + BitConverter.ToString(head, 0, 8 + 4 * parts) + "\t"
                + data;
        }
        catch (ProtocolException error)
        {
            return "refused " + error.Code;
        }
    }

    static void Write(Message m)
    {
        if (m.Type == "hello")
            Json.Write(m.Hello);
        else if (m.Type == "frame")
            Json.Write(m.Frame);
        else if (m.Type == "references")
        {
            m.Upload.Planes.AddRange(m.Frame.Planes);
            Json.Write(m.Upload);
        }
        else if (m.Type == "ping" || m.Type == "pong")
            Json.WriteNumbered(m.Type, m.Number);
        else if (m.Type == "stats" && m.Values == null)
            Json.WriteStats();
        else if (m.Type == "bye" && m.Why.Length == 0)
            Json.WriteBye(m.Session);
        else
            WriteServers(m);
    }

    static void WriteServers(Message m)
    {
        Json.Begin(m.Type);
        if (m.Type == "welcome")
            WriteWelcome(m);
        else if (m.Type == "stats")
            Value("values", OneLine(m.Values));
        else if (m.Session.Length > 0 || m.Type == "result" || m.Type == "drop")
            Json.Pair("session", m.Session);
        if (m.Type == "result" || m.Type == "drop" || (m.Type == "error" && m.HasId))
            Json.Pair("id", m.Id);
        if (m.Type == "drop" || m.Type == "bye") Json.Pair("why", m.Why);
        if (m.Type == "error") WriteError(m);
        bool credit = m.Type == "result" || m.Type == "drop" || m.Type == "welcome";
        if (credit || (m.Type == "error" && m.Credit > 0)) Json.Pair("credit", m.Credit);
        if (m.Type == "result") WriteResult(m);
        Json.End(m.Type == "result" ? m.Frame.Planes : null);
    }

    static void WriteWelcome(Message m)
    {
        Welcome w = m.Welcome;
        Json.Pair("v", w.Version);
        Json.Pair("session", w.Session);
        Json.Pair("max_part_bytes", w.MaxPartBytes);
        Value("max_wh", "[" + w.MaxWidth + "," + w.MaxHeight + "]");
        Texts("in_fmts", w.InFormats);
        Texts("planes", w.PlaneNames);
        Texts("uses", w.Uses);
        Json.Pair("stateful", w.Stateful);
        Json.Pair("model", w.Model);
        Json.Pair("hb_ms", w.HeartbeatMs);
        if (w.References.Length > 0) Json.Pair("references", w.References);
        if (w.MaxReferences > 0) Json.Pair("max_references", w.MaxReferences);
    }

    static void WriteError(Message m)
    {
        Json.Pair("code", m.Code);
        Json.Pair("msg", m.Text);
        Json.Pair("fatal", m.Fatal);
        if (m.RetryMs > 0) Json.Pair("retry_ms", m.RetryMs);
    }

    static void WriteResult(Message m)
    {
        Json.Pair("pts", m.Frame.Pts);
        Json.Pair("w", m.Frame.Width);
        Json.Pair("h", m.Frame.Height);
        Json.Pair("applied", m.Applied);
        Json.Key("srv_ms");
        Json.Add('{');
        Json.Pair("queue", m.QueueMs);
        Json.Pair("proc", m.ProcMs);
        Json.Add('}');
        Json.Pair("model", m.Model);
        Json.Planes(m.Frame.Planes);
    }

    static void Value(string key, string json)
    {
        Json.Key(key);
        Json.Raw(json);
    }

    static string OneLine(string json)
    {
        return string.Concat(json.Select(c => c < ' ' ? " " : c <= '~' ? c.ToString()
            : "\\u" + ((int)c).ToString("x4")));
    }

    static void Texts(string key, string[] texts)
    {
        Json.Key(key);
        Json.Add('[');
        foreach (string text in texts) Json.Item(text);
        Json.Add(']');
    }
}
